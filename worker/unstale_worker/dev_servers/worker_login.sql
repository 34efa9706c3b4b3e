-- Let the worker's role log in with the password in the setting unstale.password; migrations set no password. The
-- role postgres may alter it, as on Supabase, where postgres creates it without being a superuser.
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
