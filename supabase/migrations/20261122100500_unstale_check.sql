-- Diagnosis: what stands between a committed change and its entry in the outbox.
--
-- What:   unstale.watch_findings(), and what is made of it: unstale.watch_states(), which the worker asks while it runs, and
--         unstale.check(), which `unstale doctor` prints.
-- Why:    what unstale.watch() refuses can come true later: a trigger is disabled, a table is dropped and created again.
-- Rules:  none of them raises an error, whatever became of the tables.
-- Locks:  none. Re-running replaces the functions.
-- Undo:   drop function unstale.check, unstale.watch_states, unstale.watch_findings, unstale.described.

create or replace function unstale.described(
    watch_id integer, out bodies jsonb, out failure text
)
language plpgsql stable security definer set search_path = ''
as $$
begin
    select d.bodies into bodies from unstale.describe(watch_id) as d;
exception when others then
    failure := sqlerrm;
end
$$;
comment on function unstale.described(integer) is 'The bodies that unstale.describe() returns, or why it failed.';

create or replace function unstale.watch_findings(described integer[] default null)
returns table (watch integer, breaks boolean, rank integer, severity text, subject text, finding text, remedy text)
language sql stable security definer set search_path = ''
set jit = off
as $$
    with recursive watches as materialized (
        select w.id, w.relation::oid as relation, w.numbered, w.table_schema, w.table_name, w.key_columns, w.problem, w.bodies,
            pg_catalog.format('%I.%I', w.table_schema, w.table_name) as label,
            c.oid is not null as found,
            case when n.nspname is not null then pg_catalog.format('%I.%I', n.nspname, c.relname) end as name_now,
            c.relpersistence,
            -- By catalog, as to_regclass() raises an error for a schema that one may not use.
            exists (
                select from pg_catalog.pg_class as o join pg_catalog.pg_namespace as s on s.oid = o.relnamespace
                where o.relname = w.table_name and s.nspname = w.table_schema and o.oid <> w.relation
            ) as replaced
        from unstale.watched as w
        left join pg_catalog.pg_class as c on c.oid = w.relation
        left join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        where w.state = 'watched'
    -- unstale.members() of all watches at once, with one query instead of one each.
    ), below(watch, member) as (
        select w.id, w.relation from watches as w where w.found
        union
        select b.watch, i.inhrelid from below as b join pg_catalog.pg_inherits as i on i.inhparent = b.member
    ), above(watch, member) as (
        select b.watch, b.member from below as b
        union
        select a.watch, i.inhparent from above as a join pg_catalog.pg_inherits as i on i.inhrelid = a.member
    ), members as materialized (
        select a.watch, a.member, c.relkind, c.relowner, n.nspname, c.relname
        from above as a
        join pg_catalog.pg_class as c on c.oid = a.member and c.relpersistence <> 't'
        join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    ), functions as materialized (
        select w.id as watch, w.label, o.operation, o.fires, p.oid as function, p.prosrc,
            -- A body names its table by a number that a restored table does not keep.
            pg_catalog.replace(p.prosrc, coalesce(w.numbered, w.relation)::text, w.relation::text) as fitted,
            pg_catalog.format('unstale_%s_%s', w.id, o.operation) as trigger_name,
            case when p.oid is null then 'is missing'
                when not p.prosecdef or p.proconfig is null
                    or pg_catalog.md5(p.prosrc) <> w.bodies ->> o.operation then 'was replaced'
            end as defect
        from watches as w
        cross join (values ('insert', 4), ('delete', 8), ('update', 16), ('truncate', 32)) as o(operation, fires)
        left join pg_catalog.pg_proc as p on p.pronamespace = 'unstale'::regnamespace and p.pronargs = 0
            and p.proname = pg_catalog.format('capture_%s_%s', w.id, o.operation)
        where w.found
    ), triggers as materialized (
        select f.watch, f.label, f.operation, f.trigger_name, t.tgenabled, m.nspname, m.relname,
            case when t.tgenabled is null then 'the trigger is missing'
                when t.tgenabled not in ('A', 'O') then 'the trigger is disabled'
                when t.tgfoid is distinct from f.function then 'the trigger calls something else'
                when t.tgtype <> f.fires or t.tgattr::text <> '' or t.tgqual is not null
                    then 'the trigger fires for some of the statements only'
                when f.defect is null
                    and (t.tgoldtable is not null or t.tgnewtable is not null) <> (f.prosrc ~ '(old|new)_rows')
                    then 'the trigger sees no changed rows'
            end as defect,
            -- Where unstale may do it, unstale.watch() makes triggers fire always: somebody has undone that.
            t.tgenabled = 'O' as ordinary, pg_catalog.pg_has_role(u.nspowner, m.relowner, 'usage') as ours
        from functions as f
        join members as m on m.watch = f.watch and m.relkind in ('r', 'p')
        left join pg_catalog.pg_trigger as t on t.tgrelid = m.member and t.tgname = f.trigger_name
        join pg_catalog.pg_namespace as u on u.nspname = 'unstale'
    -- Materialized, so that each watch is described once.
    ), compared as materialized (
        select w.id as watch, w.label, d.bodies, d.failure
        from watches as w cross join lateral unstale.described(w.id) as d
        where w.found and (described is null or w.id = any (described))
    ), findings(watch, breaks, rank, severity, subject, finding, remedy) as (
        select w.id, true, 1, 'error', w.label, 'the table is gone, and nobody was told',
            'drop the rule, or create the table and watch it: unstale migration --all'
        from watches as w where not w.found and not w.replaced
        union all
        select w.id, true, 1, 'error', w.label,
            'the watched table is gone, and another table of that name is not watched',
            'run unstale migration --all and push, or ' ||
            pg_catalog.format('select unstale.watch(%L, %L)', w.label, w.key_columns)
        from watches as w where not w.found and w.replaced
        union all
        select w.id, true, 1, 'error', w.label,
            'a table of that name exists that is not watched: the watched one is now ' || w.name_now,
            'run unstale migration --all and push, or ' ||
            pg_catalog.format('select unstale.watch(%L, %L)', w.label, w.key_columns)
        from watches as w where w.found and w.replaced
        union all
        select w.id, true, 2, 'error', w.label,
            'the table is unlogged: a crash of the server empties it, and nobody is told',
            pg_catalog.format('alter table %s set logged', w.name_now)
        from watches as w where w.relpersistence = 'u'
        union all
        select f.watch, true, 2, 'error', f.label,
            pg_catalog.format('the capture of %s %s', f.operation, f.defect), 'call unstale.watch again'
        from functions as f where f.defect is not null
        union all
        select t.watch, true, 2, 'error', t.label,
            pg_catalog.format('%s of %s%s is not captured: %s', t.operation,
                pg_catalog.min(pg_catalog.format('%I.%I', t.nspname, t.relname)),
                case when pg_catalog.count(*) > 1
                    then pg_catalog.format(' (and of %s more tables)', pg_catalog.count(*) - 1) else '' end,
                t.defect),
            'call unstale.watch again, as owner of the table'
        from triggers as t where t.defect is not null
        group by t.watch, t.label, t.operation, t.defect
        union all
        select t.watch, t.ours, 3, case when t.ours then 'error' else 'warning' end, t.label,
            pg_catalog.format('%s of %s%s is not captured under session_replication_role = replica', t.operation,
                pg_catalog.min(pg_catalog.format('%I.%I', t.nspname, t.relname)),
                case when pg_catalog.count(*) > 1
                    then pg_catalog.format(' (and of %s more tables)', pg_catalog.count(*) - 1) else '' end),
            'call unstale.watch again, as owner of the table'
        from triggers as t where t.defect is null and t.ordinary
        group by t.watch, t.label, t.operation, t.ours
        union all
        select null, false, 3, 'warning', pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.format(
                'its trigger %I belongs to another table and writes nothing: it came with a dump', g.tgname),
            pg_catalog.format('call unstale.watch for the table, or drop trigger %I on %I.%I', g.tgname, n.nspname, c.relname)
        from pg_catalog.pg_proc as p
        join pg_catalog.pg_trigger as g on g.tgfoid = p.oid
        join pg_catalog.pg_class as c on c.oid = g.tgrelid
        join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        where p.pronamespace = 'unstale'::regnamespace and p.proname like 'capture\_%'
            and not exists (
                select from members as m where m.member = g.tgrelid
                    and p.proname like pg_catalog.format('capture\_%s\_%%', m.watch)
            )
        union all
        select m.watch, true, 2, 'error', w.label,
            pg_catalog.format('%I.%I is fed by logical replication, which fires no captures', m.nspname, m.relname),
            'watch the table where it is written'
        from members as m
        join watches as w on w.id = m.watch
        where exists (select from pg_catalog.pg_subscription_rel as s where s.srrelid = m.member)
        union all
        select m.watch, true, 2, 'error', w.label, pg_catalog.format(
                '%s (and %s more) is a foreign table: what another server writes to it fires no captures',
                pg_catalog.min(pg_catalog.format('%I.%I', m.nspname, m.relname)), pg_catalog.count(*) - 1),
            'detach it, or stop watching the table'
        from members as m join watches as w on w.id = m.watch where m.relkind = 'f' group by m.watch, w.label
        union all
        select w.id, false, 3, 'warning', w.label,
            'every change invalidates the whole table or every update is reported: ' || w.problem,
            'watch columns that the table has: unstale.toml, then run unstale migration'
        from watches as w where w.problem is not null
        union all
        -- With event triggers captures are generated again at once. Without, they notice it themselves.
        select f.watch, unstale.follows_ddl(), 2, 'error', f.label,
            pg_catalog.format('the capture of %s does not fit the table as it is now', f.operation)
                || case when unstale.follows_ddl() then '' else ': every change invalidates the whole table' end,
            'call unstale.watch again'
        from compared as d
        join functions as f on f.watch = d.watch and f.defect is null
        where d.failure is null and f.fitted is distinct from d.bodies ->> f.operation
        union all
        select f.watch, false, 4, 'warning', f.label,
            'its captures came with a dump: each statement looks up whether they belong to its table', 'call unstale.watch again'
        from compared as d
        join functions as f on f.watch = d.watch and f.defect is null
        where f.fitted <> f.prosrc and f.fitted = d.bodies ->> f.operation
        group by f.watch, f.label
        union all
        select d.watch, true, 2, 'error', d.label, 'its captures could not be compared with the table: ' || d.failure,
            'call unstale.watch again'
        from compared as d where d.failure is not null
    )
    select * from findings
$$;
comment on function unstale.watch_findings(integer[]) is
    'What is wrong with captures. breaks: changes may stay uncaptured. Those in `described` (null: all) are compared with '
    'what their table needs, which takes 5 to 15 ms each; the rest together takes some milliseconds.';

create or replace function unstale.watch_states(described integer[] default '{}')
returns table (
    watch integer, "current" boolean, table_schema text, table_name text, key_columns text[], columns text[],
    broken text, coarse text
)
language sql stable security definer set search_path = ''
as $$
    with worst as (
        select f.watch, f.breaks,
            (pg_catalog.array_agg(f.finding || '; ' || f.remedy order by f.rank, f.finding))[1]
                || case when pg_catalog.count(*) > 1
                    then pg_catalog.format(' (%s more findings: unstale doctor)', pg_catalog.count(*) - 1) else '' end as text
        from unstale.watch_findings(described) as f
        group by f.watch, f.breaks
    )
    select w.id, w.state = 'watched', w.table_schema, w.table_name, w.key_columns, w.columns,
        case when w.state = 'gone' then 'the table was dropped; create it, then run unstale migration --all and push'
            when w.state = 'watched' then (select x.text from worst as x where x.watch = w.id and x.breaks) end,
        case when w.state = 'watched' then (select x.text from worst as x where x.watch = w.id and not x.breaks) end
    from unstale.watched as w
$$;
comment on function unstale.watch_states(integer[]) is
    'One row for each watch, past ones too. broken: changes may stay uncaptured; coarse: they invalidate more than needed.';

create or replace function unstale.check()
returns table (severity text, subject text, finding text, remedy text)
language sql stable security definer set search_path = ''
as $$
    with current_watches as (
        select w.*, pg_catalog.format('%I.%I', w.table_schema, w.table_name) as label,
            case when n.nspname is not null then pg_catalog.format('%I.%I', n.nspname, c.relname) end as name_now
        from unstale.watched as w
        left join pg_catalog.pg_class as c on c.oid = w.relation
        left join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        where w.state = 'watched'
    ), findings(rank, severity, subject, finding, remedy) as (
        select f.rank, f.severity, f.subject, f.finding, f.remedy from unstale.watch_findings() as f
        union all
        select 1, 'error', pg_catalog.format('%I.%I', w.table_schema, w.table_name),
            'the watched table was dropped, and a new table of that name is not watched',
            'run unstale migration --all and push, or ' || pg_catalog.format('select unstale.watch(%L, %L)',
                pg_catalog.format('%I.%I', w.table_schema, w.table_name), w.key_columns)
        from unstale.watched as w
        where w.state = 'gone'
            and exists (
                select from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
                where c.relname = w.table_name and n.nspname = w.table_schema
            )
            and not exists (
                select from unstale.watched as x
                where x.state = 'watched' and (x.table_schema, x.table_name) = (w.table_schema, w.table_name)
            )
        union all
        select 4, 'warning', w.label, 'the table is now called ' || w.name_now || '; rules still know it by the old name',
            'use the new name in unstale.toml, then run unstale migration'
        from current_watches as w
        where w.name_now <> w.label and not exists (
            select from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
            where c.relname = w.table_name and n.nspname = w.table_schema
        )
        union all
        select 4, 'warning', w.label, pg_catalog.format('column %I is now called %I', r.label, r.name),
            'use the new name in unstale.toml, then run unstale migration'
        from current_watches as w
        cross join lateral unstale.numbered(w.id) as x
        cross join lateral (
            select * from unstale.resolve(x.relation, x.key_columns, x.key_numbers)
            union all
            select * from unstale.resolve(x.relation, x.columns, x.column_numbers)
        ) as r
        where r.name <> r.label
        union all
        select 3, 'warning', 'event triggers', 'captures do not follow ALTER TABLE: after it, they write whole-table entries',
            'run the migration unstale_follow_ddl as superuser, or call unstale.watch after each ALTER TABLE'
        where not unstale.follows_ddl()
        union all
        select 5, 'info', 'max_prepared_transactions', 'is above 0: captures send no wake-ups, because NOTIFY would make '
            'PREPARE TRANSACTION fail, and changes wait for the worker''s timer', 'set it to 0 if nobody uses two-phase commit'
        where pg_catalog.current_setting('max_prepared_transactions') <> '0'
        union all
        select 3, 'warning', 'outbox', 'it came with a dump of another server', 'select unstale.purge()'
        from unstale.horizon as h
        where h.system_identifier::text <> pg_catalog.split_part(unstale.database(), ':', 1)
    )
    select f.severity, f.subject, f.finding, f.remedy from findings as f order by f.rank, f.subject, f.finding
$$;
comment on function unstale.check() is 'Findings about captures, worst first; no row: all is well.';

revoke all on function
    unstale.described(integer), unstale.watch_findings(integer[]), unstale.watch_states(integer[]), unstale.check()
from public;
grant execute on function unstale.watch_states(integer[]), unstale.check() to unstale_worker;
