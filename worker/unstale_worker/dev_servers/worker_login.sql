-- Lets the worker's role log in with the password in the setting unstale.password; migrations set none. The role
-- postgres may alter it, as on Supabase, where it is no superuser when it creates it.
do $$
begin
    if exists (select from pg_catalog.pg_roles where rolname = 'unstale_worker') then
        execute format('alter role unstale_worker login password %L', current_setting('unstale.password'));
        if current_setting('server_version_num')::integer >= 160000 then  -- before, createrole is enough
            execute 'grant unstale_worker to postgres with admin true, inherit false, set false';
        end if;
    end if;
end
$$;
