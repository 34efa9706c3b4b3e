-- For this transaction only: a fan-out query may name tables of public without their schema.
select pg_catalog.set_config('search_path', 'public, extensions', true)
