with changed as (
    update public.items set version = pg_catalog.nextval('public.versions') where id = $1::int
    returning 'item:' || id as "row", version
)
insert into public.journal ("row", version, present) select "row", version, true from changed
returning "row", version, present
