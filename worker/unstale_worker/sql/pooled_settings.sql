-- Settings for this transaction, on a pooled connection.
select set_config('row_security', 'off', true)
