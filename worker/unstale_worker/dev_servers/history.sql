-- The Supabase command line's own record of applied migrations, as it creates it. May run again.
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
    version text not null primary key,
    statements text[],
    name text
);
