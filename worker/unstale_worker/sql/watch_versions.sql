-- Every version of every watch: which table, and which columns a tuple holds, in their order.
select watch, version, table_schema, table_name, key_columns, current from unstale.watch_versions
