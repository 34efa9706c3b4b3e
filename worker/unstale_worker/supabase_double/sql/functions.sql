-- Functions $2 of schema $1: what PostgREST's schema cache knows of them. Only the input arguments count.
select
    p.oid::bigint as oid,
    p.provolatile = 'v' as volatile,
    p.proretset as is_set,
    r.typtype = 'c' or p.prorettype = 'pg_catalog.record'::regtype as is_composite,
    p.prorettype = 'pg_catalog.void'::regtype as is_void,
    array(
        select coalesce(names.name, '')
        from unnest(coalesce(p.proargmodes, array_fill('i'::"char", array[p.pronargs::integer])))
            with ordinality as modes (mode, position)
        left join unnest(p.proargnames) with ordinality as names (name, position) using (position)
        where modes.mode in ('i', 'b', 'v')
        order by position
    ) as arguments,
    array(
        select pg_catalog.format_type(type, null)
        from unnest(p.proargtypes::oid[]) with ordinality as types (type, position)
        order by position
    ) as types,
    p.pronargdefaults::integer as optional,
    p.prosrc as source
from pg_catalog.pg_proc p
join pg_catalog.pg_namespace n on n.oid = p.pronamespace
join pg_catalog.pg_type r on r.oid = p.prorettype
where n.nspname = $1::name and p.proname = $2::name and p.prokind = 'f'
