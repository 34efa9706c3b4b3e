-- Every version of every watch: the table, the columns of a key tuple in order with their types now, and the filter of
-- the current version.
select watch, version, table_schema, table_name, key_columns, current, columns, key_types from unstale.watch_versions
