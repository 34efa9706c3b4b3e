-- Pid of the server process that answers; behind a transaction pooler it changes between statements.
select pg_backend_pid()
