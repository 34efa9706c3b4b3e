select version from public.notes where id = $1::int
