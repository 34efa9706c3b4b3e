-- Create the initial roles of a Supabase project, with the rights that matter here. Run by the superuser in a
-- transaction whose setting unstale.password holds the password of the login roles. May run again.
do $$
declare
    login constant text := format('password %L', current_setting('unstale.password'));
    role record;
begin
    for role in
        select *
        from (values
            ('anon', 'nologin noinherit'),
            ('authenticated', 'nologin noinherit'),
            ('service_role', 'nologin noinherit bypassrls'),
            ('authenticator', 'login noinherit ' || login),
            ('postgres', 'login nosuperuser createdb createrole replication bypassrls ' || login)
        ) as wanted (name, rights)
    loop
        if not exists (select from pg_catalog.pg_roles where rolname = role.name) then
            execute format('create role %I %s', role.name, role.rights);
        end if;
    end loop;
end
$$;

grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role, pg_monitor, pg_read_all_data, pg_signal_backend
    to postgres with admin option;
alter database postgres owner to postgres;

-- Since 2026-10-30 new tables in public have no automatic grants; the schema itself remains usable.
grant usage on schema public to anon, authenticated, service_role;
