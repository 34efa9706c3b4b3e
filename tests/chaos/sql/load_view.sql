select (select version from public.items where id = $1::int), (select version from public.groups where id = $2::int)
