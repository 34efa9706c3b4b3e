-- Every watch with the state of its captures now; those in $1 are compared with what their table needs.
select watch, current, table_schema, table_name, key_columns, columns, broken, coarse from unstale.watch_states($1::integer[])
