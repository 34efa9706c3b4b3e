update public.items set touched = touched + 1 where id = any($1::int[])
