-- Every version of every watch: the table, the columns of a key tuple in order, and the filter of the current version.
select watch, version, table_schema, table_name, key_columns, current, columns from unstale.watch_versions
