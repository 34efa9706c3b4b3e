-- The further roles of a Supabase project, for servers whose roles.sql has run. Run by the superuser in a transaction
-- whose setting unstale.password holds the password of the login roles. May run again.
do $$
declare
    login constant text := format('login password %L', current_setting('unstale.password'));
    role record;
begin
    for role in
        select *
        from (values
            ('supabase_auth_admin', 'noinherit createrole ' || login),
            ('supabase_storage_admin', 'noinherit createrole ' || login),
            ('supabase_functions_admin', 'noinherit createrole ' || login),
            ('supabase_realtime_admin', 'nologin noinherit'),
            ('supabase_replication_admin', 'replication ' || login),
            ('supabase_etl_admin', 'replication ' || login),
            ('supabase_read_only_user', 'bypassrls ' || login),
            ('supabase_privileged_role', 'nologin'),
            ('dashboard_user', 'nologin createdb createrole replication'),
            ('pgbouncer', login)
        ) as wanted (name, rights)
    loop
        if not exists (select from pg_catalog.pg_roles where rolname = role.name) then
            execute format('create role %I %s', role.name, role.rights);
        end if;
    end loop;
end
$$;

grant pg_read_all_data to supabase_read_only_user, supabase_etl_admin;
-- On the platform an extension lets postgres create triggers and policies on tables of these roles.
grant authenticator, supabase_auth_admin, supabase_storage_admin, supabase_realtime_admin, supabase_functions_admin
    to postgres with admin option;
-- Data dumps begin with it.
grant set on parameter session_replication_role to postgres;
