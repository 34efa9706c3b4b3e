select "row", version, present from public.journal order by id
