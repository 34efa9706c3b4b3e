-- The login of the worker of `unstale dev`, with the password in the setting unstale.password: a member of
-- unstale_worker, whose own password belongs to the user.
do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'unstale_dev') then
        create role unstale_dev login inherit;
    end if;
    execute format('alter role unstale_dev password %L', current_setting('unstale.password'));
    grant unstale_worker to unstale_dev;
end
$$;
