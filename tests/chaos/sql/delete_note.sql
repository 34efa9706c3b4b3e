with gone as (
    delete from public.notes where id = $1::int
    returning 'note:' || id as "row"
)
insert into public.journal ("row", version, present)
select "row", pg_catalog.nextval('public.versions'), false from gone
returning "row", version, present
