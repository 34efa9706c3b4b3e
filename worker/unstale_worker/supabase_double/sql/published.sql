-- True if publication $1 has table $3 of schema $2; null for either one means any.
select exists (
    select from pg_catalog.pg_publication_tables
    where pubname = $1::name and schemaname = coalesce($2::name, schemaname) and tablename = coalesce($3::name, tablename)
)
