-- Settings of a loader's session. $1 true: for this transaction only (transaction pooler); false: for the session.
-- standby: a pooler may lead to another server with each transaction, and a standby lags.
-- search_path: a query may name tables of public without their schema.
-- row_security: "off" raises an error for any policy of a table, even if it hides nothing. Therefore it is on, and
-- every statement of a loader checks if policies could have hidden rows from it.
select
    pg_catalog.set_config('search_path', 'public, extensions', $1),
    pg_catalog.set_config('row_security', 'on', $1),
    pg_catalog.set_config('default_transaction_read_only', 'on', $1),
    pg_catalog.pg_is_in_recovery() as standby
