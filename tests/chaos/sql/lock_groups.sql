select from public.groups where id = any($1::int[]) order by id for update
