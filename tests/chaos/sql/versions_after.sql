select pg_catalog.setval('public.versions', $1::bigint + 10000)
