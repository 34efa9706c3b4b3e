
-- A query reads @{table}: let the worker's role select from it, and let row level security hide nothing from it.
do @{quote}
declare
    relation regclass := pg_catalog.to_regclass(@{table});
    its      record;
begin
    select c.relkind, n.nspname into its
    from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.oid = relation;
    if not found then
        raise warning 'unstale: a query reads %, which does not exist', @{table};
        return;
    end if;
    execute pg_catalog.format('grant usage on schema %I to unstale_worker', its.nspname);
    execute pg_catalog.format('grant select on %s to unstale_worker', relation);
    if its.relkind in ('r', 'p') and not exists (
        select from pg_catalog.pg_policy as p where p.polrelid = relation and p.polname = 'unstale_worker_reads'
    ) then
        execute pg_catalog.format(
            'create policy unstale_worker_reads on %s for select to unstale_worker using (true)', relation
        );
    end if;
exception
    when insufficient_privilege then
        raise warning 'unstale: not allowed to grant unstale_worker select on % (%)', relation, sqlerrm
            using hint = 'Ask its owner to grant select and create the policy, or run the worker as another role.';
end
@{quote};
