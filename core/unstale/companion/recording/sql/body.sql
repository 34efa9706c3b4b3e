-- The body of a function; that of a standard SQL body locks the tables it names.
select coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc) from pg_catalog.pg_proc as p where p.oid = $1
