-- $1 items, $2 groups, $3 notes
with items as (
    insert into public.items (id, group_id, version)
    select i, i % $2::int, pg_catalog.nextval('public.versions') from pg_catalog.generate_series(0, $1::int - 1) as i
    returning 'item:' || id as "row", version
), groups as (
    insert into public.groups (id, version)
    select i, pg_catalog.nextval('public.versions') from pg_catalog.generate_series(0, $2::int - 1) as i
    returning 'group:' || id, version
), notes as (
    insert into public.notes (id, version)
    select i, pg_catalog.nextval('public.versions') from pg_catalog.generate_series(0, $3::int - 1) as i
    returning 'note:' || id, version
), locks as (
    insert into public.note_locks (id) select i from pg_catalog.generate_series(0, $3::int - 1) as i
)
insert into public.journal ("row", version, present)
select "row", version, true from (table items union all table groups union all table notes) as seeded ("row", version)
