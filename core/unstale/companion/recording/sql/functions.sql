-- Functions with the names $1, but none of Postgres, of an extension or of unstale.
select
    p.oid, n.nspname as schema, p.proname as name, l.lanname as language,
    pg_catalog.pg_function_is_visible(p.oid) as visible,
    (
        select substr(setting, length('search_path=') + 1)
        from unnest(p.proconfig) as setting where setting like 'search_path=%'
    ) as search_path
from pg_catalog.pg_proc as p
join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
join pg_catalog.pg_language as l on l.oid = p.prolang
where p.proname = any($1::text[])
    and n.nspname not in ('pg_catalog', 'information_schema', 'unstale')
    and not exists (
        select from pg_catalog.pg_depend as d
        where d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.objid = p.oid and d.deptype = 'e'
    )
