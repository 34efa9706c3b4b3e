-- Schemas, settings and the publication of a Supabase project, in the current database. Run by the superuser.
-- May run again.
create schema if not exists extensions authorization postgres;
create schema if not exists auth authorization supabase_auth_admin;
create schema if not exists storage authorization supabase_storage_admin;
create schema if not exists realtime authorization supabase_admin;
create schema if not exists _realtime authorization supabase_admin;
create schema if not exists graphql_public authorization supabase_admin;
create schema if not exists supabase_functions authorization supabase_admin;
create schema if not exists vault authorization supabase_admin;

grant usage on schema extensions, auth, storage, realtime, graphql_public, supabase_functions
    to postgres, anon, authenticated, service_role;
grant all on schema extensions, auth, storage, realtime, graphql_public to dashboard_user;
grant all on schema auth, storage to postgres;

do $$
begin
    execute format('alter database %I set search_path to "$user", public, extensions', current_database());
    if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
        create publication supabase_realtime;
        alter publication supabase_realtime owner to postgres;
    end if;
end
$$;

-- The extensions that a new project has, where this server knows them.
do $$
declare
    wanted record;
begin
    for wanted in
        select *
        from (values
            ('pgcrypto', ' with schema extensions'), ('uuid-ossp', ' with schema extensions'),
            ('pg_stat_statements', ' with schema extensions'), ('supabase_vault', ' with schema vault')
        ) as extension (name, place)
        where exists (select from pg_catalog.pg_available_extensions as known where known.name = extension.name)
    loop
        execute format('create extension if not exists %I', wanted.name) || wanted.place;
    end loop;
end
$$;

create or replace function graphql_public.graphql(
    "operationName" text default null, query text default null, variables jsonb default null,
    extensions jsonb default null
) returns jsonb
language sql immutable
as $$ select '{"errors": [{"message": "unstale dev has no GraphQL"}]}'::jsonb $$;

-- Database webhooks: they are noted in supabase_functions.hooks, and nothing is sent.
create table if not exists supabase_functions.hooks (
    id bigserial primary key,
    hook_table_id integer not null,
    hook_name text not null,
    created_at timestamptz not null default now(),
    request_id bigint
);
create table if not exists supabase_functions.migrations (
    version text primary key, inserted_at timestamptz not null default now()
);
create or replace function supabase_functions.http_request() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    insert into supabase_functions.hooks (hook_table_id, hook_name) values (tg_relid, tg_name);
    return coalesce(new, old);
end
$$;
grant all on all tables in schema supabase_functions to postgres, service_role;
grant all on all sequences in schema supabase_functions to postgres, service_role;
