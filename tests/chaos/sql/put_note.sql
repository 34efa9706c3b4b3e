with changed as (
    insert into public.notes (id, version) values ($1::int, pg_catalog.nextval('public.versions'))
    on conflict (id) do update set version = excluded.version
    returning 'note:' || id as "row", version
)
insert into public.journal ("row", version, present) select "row", version, true from changed
returning "row", version, present
