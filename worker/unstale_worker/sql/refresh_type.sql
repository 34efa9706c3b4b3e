-- A type in the form of a cast. $1 is its oid.
select pg_catalog.format_type($1::oid, null)
