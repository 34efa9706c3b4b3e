select pg_catalog.current_setting('max_prepared_transactions')
