-- Settings of this transaction, for a pooled connection.
select set_config('row_security', 'off', true)
