-- Lets the worker's role log in with the password in the setting unstale.password; migrations set none.
do $$
begin
    if exists (select from pg_catalog.pg_roles where rolname = 'unstale_worker') then
        execute format('alter role unstale_worker login password %L', current_setting('unstale.password'));
    end if;
end
$$;
