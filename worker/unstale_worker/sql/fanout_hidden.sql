-- Tables that were read in this transaction and whose policies may have hidden rows from this role.
-- This session holds a lock on every table that a query reads, also through views and functions, until its
-- transaction ends. A table hides nothing if a policy with "using (true)" applies and no restrictive policy does.
with held as (
    select distinct l.relation
    from pg_catalog.pg_locks as l
    join pg_catalog.pg_database as d on d.oid = l.database and d.datname = pg_catalog.current_database()
    where l.pid = pg_catalog.pg_backend_pid() and l.locktype = 'relation' and l.granted
),
applying as (
    select p.polrelid, p.polpermissive, pg_catalog.pg_get_expr(p.polqual, p.polrelid) = 'true' as everything
    from pg_catalog.pg_policy as p
    where p.polrelid in (select relation from held) and p.polcmd in ('r', '*')
        and exists (
            select from pg_catalog.unnest(p.polroles) as r(role)
            where r.role = 0 or pg_catalog.pg_has_role(r.role, 'usage')
        )
)
select c.oid::regclass::text as name
from held as h
join pg_catalog.pg_class as c on c.oid = h.relation and c.relkind in ('r', 'p')
where pg_catalog.row_security_active(c.oid)
    and (
        not exists (select from applying as a where a.polrelid = c.oid and a.polpermissive and a.everything)
        or exists (select from applying as a where a.polrelid = c.oid and not a.polpermissive)
    )
    -- A partition that is read through its parent is subject to the parent's policies.
    and not exists (
        select from pg_catalog.pg_inherits as i
        where i.inhrelid = c.oid and i.inhparent in (select relation from held)
    )
