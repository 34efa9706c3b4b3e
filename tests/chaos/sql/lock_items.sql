select from public.items where id = any($1::int[]) order by id for update
