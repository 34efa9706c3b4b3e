-- Settings for this transaction only. $1 is 'on' or 'off'.
-- search_path: a fan-out query may name tables of public without their schema.
-- row_security: "off" raises an error for any policy of a table, even if it hides nothing. Therefore "on" comes
-- first, and fanout_hidden.sql then checks if policies could have hidden rows.
select
    pg_catalog.set_config('search_path', 'public, extensions', true),
    pg_catalog.set_config('row_security', $1, true)
