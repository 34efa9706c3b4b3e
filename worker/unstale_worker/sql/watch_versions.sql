-- Every version of every watch: which table, which columns a tuple holds, in their order, and the current one's filter.
select watch, version, table_schema, table_name, key_columns, current, columns from unstale.watch_versions
