-- Parse and rewrite the body of an SQL function, as CREATE FUNCTION does: this locks every table it reads.
select pg_catalog.fmgr_sql_validator($1)
