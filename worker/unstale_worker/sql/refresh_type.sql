-- A type as a cast writes it. $1 its oid.
select pg_catalog.format_type($1::oid, null)
