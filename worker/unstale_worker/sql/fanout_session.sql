-- For this transaction only. $1 is 'on' or 'off'.
-- search_path: a fan-out query may name tables of public without their schema.
-- row_security: "off" turns any policy of a table into an error, also one that hides nothing; so "on" comes first,
-- and fanout_hidden.sql then looks whether policies could have hidden rows.
select
    pg_catalog.set_config('search_path', 'public, extensions', true),
    pg_catalog.set_config('row_security', $1, true)
