-- Diagnosis: what stands between a committed change and its entry in the outbox.
--
-- What:   unstale.check(), which `unstale doctor` prints.
-- Locks:  none. Re-running replaces the function.
-- Undo:   drop function unstale.check;

create or replace function unstale.check()
returns table (severity text, subject text, finding text, remedy text)
language sql stable security definer set search_path = ''
as $$
    with current_watches as (
        select w.*, pg_catalog.format('%I.%I', w.table_schema, w.table_name) as label, c.oid as found,
            pg_catalog.format('%I.%I', n.nspname, c.relname) as name_now, c.relpersistence
        from unstale.watched as w
        left join pg_catalog.pg_class as c on c.oid = w.relation
        left join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        where w.state = 'watched'
    ), operations as (
        select o.operation from pg_catalog.unnest('{insert,update,delete,truncate}'::text[]) as o(operation)
    ), captures as (
        select w.id, w.label, o.operation, p.oid as function, p.prosrc, d.bodies ->> o.operation as wanted, d.transition
        from current_watches as w
        cross join lateral unstale.describe(w.id) as d
        cross join operations as o
        left join pg_catalog.pg_proc as p on p.pronamespace = 'unstale'::regnamespace
            and p.proname = pg_catalog.format('capture_%s_%s', w.id, o.operation)
        where w.found is not null
    ), triggers as (
        select k.*, m.member::regclass::text as member, t.tgenabled, t.tgfoid,
            coalesce(t.tgoldtable, t.tgnewtable) is not null as has_transition
        from captures as k
        join unstale.watched as w on w.id = k.id
        cross join lateral unstale.members(w.relation) as m
        left join pg_catalog.pg_trigger as t on t.tgrelid = m.member
            and t.tgname = pg_catalog.format('unstale_%s_%s', k.id, k.operation)
        where m.kind in ('r', 'p')
    ), findings(rank, severity, subject, finding, remedy) as (
        select 1, 'error', w.label, 'the table is gone, and nobody was told', 'drop the rule, or create the table and watch it'
        from current_watches as w where w.found is null
        union all
        select 1, 'error', pg_catalog.format('%I.%I', w.table_schema, w.table_name),
            'the watched table was dropped, and a new table of that name is not watched',
            pg_catalog.format('select unstale.watch(%L, %L)',
                pg_catalog.format('%I.%I', w.table_schema, w.table_name), w.key_columns)
        from unstale.watched as w
        where w.state = 'gone'
            and pg_catalog.to_regclass(pg_catalog.format('%I.%I', w.table_schema, w.table_name)) is not null
            and not exists (
                select from unstale.watched as x
                where x.state = 'watched' and (x.table_schema, x.table_name) = (w.table_schema, w.table_name)
            )
        union all
        select 1, 'error', w.label, 'a table of that name exists that is not watched: the watched one is now '
            || w.name_now, pg_catalog.format('select unstale.watch(%L, %L)', w.label, w.key_columns)
        from current_watches as w
        where w.name_now <> w.label and pg_catalog.to_regclass(w.label) is not null
        union all
        select 4, 'warning', w.label, 'the table is now called ' || w.name_now || '; rules still know it by the old name',
            'use the new name in unstale.toml, then run unstale migration'
        from current_watches as w
        where w.name_now <> w.label and pg_catalog.to_regclass(w.label) is null
        union all
        select 3, 'warning', w.label, 'every change invalidates the whole table or every update is reported: ' || w.problem,
            'watch columns that the table has: unstale.toml, then run unstale migration'
        from current_watches as w where w.problem is not null
        union all
        select 4, 'warning', w.label, pg_catalog.format('column %I is now called %I', r.label, r.name),
            'use the new name in unstale.toml, then run unstale migration'
        from current_watches as w
        cross join lateral (
            select * from unstale.resolve(w.relation, w.key_columns, w.key_numbers)
            union all
            select * from unstale.resolve(w.relation, w.columns, w.column_numbers)
        ) as r
        where r.name <> r.label
        union all
        select 2, 'error', w.label, 'the table is unlogged: a crash of the server empties it, and nobody is told',
            pg_catalog.format('alter table %s set logged', w.name_now)
        from current_watches as w where w.relpersistence = 'u'
        union all
        select 2, 'error', k.label, pg_catalog.format('the capture of %s does not fit the table as it is now', k.operation),
            'call unstale.watch again'
        from captures as k where k.prosrc is distinct from k.wanted
        union all
        select 2, 'error', t.label, pg_catalog.format('%s of %s is not captured: %s', t.operation, t.member,
                case when t.tgenabled is null then 'the trigger is missing'
                    when t.tgenabled = 'D' then 'the trigger is disabled'
                    when t.tgfoid is distinct from t.function then 'the trigger calls something else'
                    else 'the trigger sees no changed rows' end),
            'call unstale.watch again, as owner of the table'
        from triggers as t
        where t.tgenabled is null or t.tgenabled = 'D' or t.tgfoid is distinct from t.function
            or (t.has_transition is distinct from (t.transition and t.operation <> 'truncate'))
        union all
        select 3, 'warning', t.label, pg_catalog.format(
                '%s of %s is not captured under session_replication_role = replica', t.operation, t.member),
            pg_catalog.format('alter table %s enable always trigger %I', t.member,
                pg_catalog.format('unstale_%s_%s', t.id, t.operation))
        from triggers as t where t.tgenabled = 'O'
        union all
        select 2, 'error', w.label, pg_catalog.format('%s is fed by logical replication, which fires no captures', m.member::regclass),
            'watch the table where it is written'
        from current_watches as w
        cross join lateral unstale.members(w.relation) as m
        join pg_catalog.pg_subscription_rel as s on s.srrelid = m.member
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

revoke all on function unstale.check() from public;
grant execute on function unstale.check() to unstale_worker;
