insert into public.journal ("row", version, present)
select 'note:' || id, pg_catalog.nextval('public.versions'), false from public.notes order by id
returning "row", version, present
