
-- The query for @{table}, for a worker that reads over HTTPS, which can call functions only. The name contains the
-- hash of the function's definition, so that a worker never runs a query that differs from its rules.
create or replace function unstale.query_@{hash}(given jsonb, most integer) returns jsonb
language sql stable security invoker set search_path = ''
as @{quote}
    select unstale.run_query(
        @{schema}, @{name}, @{columns}, @{wanted},
        @{query},
        given, most
    )
@{quote};
comment on function unstale.query_@{hash}(jsonb, integer) is 'A rule''s query; written by `unstale migration`.';
revoke all on function unstale.query_@{hash}(jsonb, integer) from public;
do @{quote}
declare
    label    text;
    relation regclass;
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'service_role') then
        return;
    end if;
    grant execute on function unstale.query_@{hash}(jsonb, integer) to service_role;
    foreach label in array @{reads} loop
        relation := pg_catalog.to_regclass(label);
        if relation is not null then
            execute pg_catalog.format('grant select on %s to service_role', relation);
        end if;
    end loop;
exception
    when insufficient_privilege then
        raise warning 'unstale: not allowed to grant service_role select on % (%)', label, sqlerrm
            using hint = 'Ask the owner of the table to grant select on it.';
end
@{quote};
