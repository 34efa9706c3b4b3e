select version from public.items where id = $1::int
