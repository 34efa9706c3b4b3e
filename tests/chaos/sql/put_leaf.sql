-- $1 leaf: a new version of its first note, if it has one, written straight into it.
select pg_catalog.format(
    'with changed as ('
    '    update public.%1$I set version = pg_catalog.nextval(''public.versions'') where id = %2$s'
    '    returning ''note:'' || id as "row", version'
    ') insert into public.journal ("row", version, present) select "row", version, true from changed'
    ' returning "row", version, present',
    $1::text, $2::int
)
