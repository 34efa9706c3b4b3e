insert into public.journal ("row", version, present) values ($1::text, pg_catalog.nextval('public.versions'), false)
returning "row", version, present
