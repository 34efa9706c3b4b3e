select rolname, rolsuper, rolbypassrls from pg_catalog.pg_roles where rolname = current_user
