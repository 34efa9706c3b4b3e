-- Record a migration; returns no row if it is recorded already.
insert into supabase_migrations.schema_migrations (version, name, statements)
values ($1, $2, array[$3])
on conflict (version) do nothing
returning version
