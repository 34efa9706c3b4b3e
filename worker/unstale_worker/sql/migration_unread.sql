
-- No query reads @{table} any more.
do @{quote}
declare
    relation regclass := pg_catalog.to_regclass(@{table});
begin
    if relation is null then
        return;
    end if;
    execute pg_catalog.format('revoke select on %s from unstale_worker', relation);
    if exists (
        select from pg_catalog.pg_policy as p where p.polrelid = relation and p.polname = 'unstale_worker_reads'
    ) then
        execute pg_catalog.format('drop policy unstale_worker_reads on %s', relation);
    end if;
exception
    when insufficient_privilege then
        raise warning 'unstale: not allowed to revoke select on % from unstale_worker (%)', relation, sqlerrm;
end
@{quote};
