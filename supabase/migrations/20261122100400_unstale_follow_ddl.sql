-- Captures follow the tables: event triggers that generate them again in the transaction of an ALTER TABLE.
--
-- What:   event triggers unstale_ddl (ddl_command_end) and unstale_drop (sql_drop), and their functions.
-- Why:    a capture that names a column that is gone would make every write to the table fail.
-- Rules:  they never make a command fail: what goes wrong becomes a warning, and unstale.check() reports it.
-- Locks:  those of the command itself. On servers where the role may not create event triggers, none is created.
-- Undo:   drop event trigger unstale_ddl, unstale_drop; drop function unstale.on_ddl, unstale.on_drop;

create or replace function unstale.follow(watch_id integer, with_entry boolean) returns void
language plpgsql volatile set search_path = ''
as $$
declare
    reason text;
begin
    begin
        perform unstale.generate(watch_id, tolerant => true);
    exception when others then
        reason := sqlerrm;
        raise warning 'unstale: captures of watch % could not be generated again: %', watch_id, reason
            using hint = 'Run select * from unstale.check().';
        begin
            -- Those that are there may name a column that is gone. Whole-table entries need nothing of the table.
            perform unstale.write_functions(watch_id, d.bodies) from unstale.describe(watch_id, reason) as d;
            update unstale.watched as w set problem = reason where w.id = watch_id and w.problem is distinct from reason;
        exception when others then
            raise warning 'unstale: captures of watch % could not be replaced either: %', watch_id, sqlerrm;
        end;
    end;
    if with_entry then
        perform unstale.invalidate_all(watch_id);
    end if;
end
$$;
comment on function unstale.follow(integer, boolean) is 'Brings one watch in line with its table after DDL.';

create or replace function unstale.follow_leaf(relation oid) returns integer[]
language plpgsql volatile set search_path = ''
as $$
declare
    parents constant oid[] := array(
        select i.inhparent from pg_catalog.pg_inherits as i where i.inhrelid = follow_leaf.relation);
    leaf    boolean;
    others  integer[] := '{}';
    w       record;
    problem text;
begin
    select c.relispartition and c.relkind in ('r', 'p') and not exists (
        select from pg_catalog.pg_inherits as i where i.inhparent = follow_leaf.relation
    ) into leaf
    from pg_catalog.pg_class as c where c.oid = follow_leaf.relation;
    for w in
        select k.watch, x.relation::oid = follow_leaf.relation as itself, exists (
            with recursive above as (
                select p.parent from pg_catalog.unnest(parents) as p(parent)
                union
                select i.inhparent from above as a join pg_catalog.pg_inherits as i on i.inhrelid = a.parent
            )
            select from above as a where a.parent = x.relation
        ) as below, exists (
            select from pg_catalog.pg_trigger as t where t.tgrelid = x.relation
                and t.tgname = pg_catalog.format('unstale_%s_insert', x.id) and t.tgnewtable is not null
        ) as transition
        from unstale.captured as k join unstale.watched as x on x.id = k.watch
        where k.relation = follow_leaf.relation or k.relation = any (parents)
        group by k.watch, x.id order by k.watch
    loop
        if not leaf or w.itself then
            others := others || w.watch;
            continue;
        end if;
        insert into unstale.captured (watch, relation, carries) values (w.watch, follow_leaf.relation, w.below)
        on conflict do nothing;
        if w.below then
            problem := unstale.place_triggers(w.watch, w.transition, true, follow_leaf.relation);
            if problem is not null then
                raise warning 'unstale: %', problem;
            end if;
        end if;
        perform unstale.drop_misplaced(array[follow_leaf.relation]);
    end loop;
    return others;
end
$$;
comment on function unstale.follow_leaf(oid) is
    'Brings one partition in line, among any number: returns the watches for which that is not enough.';

create or replace function unstale.concerned(relation oid) returns setof integer
language sql stable set search_path = ''
as $$
    -- The table, its family of today, and the one it had before (DETACH).
    select distinct k.watch from unstale.captured as k
    where k.relation in (
        select concerned.relation
        union all select i.inhparent from pg_catalog.pg_inherits as i where i.inhrelid = concerned.relation
        union all select i.inhrelid from pg_catalog.pg_inherits as i where i.inhparent = concerned.relation
    )
$$;
comment on function unstale.concerned(oid) is 'The watches that an ALTER TABLE of this table may concern.';

create or replace function unstale.shown(type oid) returns setof integer
language sql stable set search_path = ''
as $$
    -- An enum's value may have another name now, or a composite type other attributes: rows look different, and no
    -- trigger fired. Domains, arrays, ranges and composite types over it count, too.
    with recursive over as (
        select shown.type as type
        union
        select x.type
        from over as o
        join pg_catalog.pg_depend as d on d.refclassid = 'pg_type'::regclass and d.refobjid = o.type
        cross join lateral (
            select d.objid as type where d.classid = 'pg_type'::regclass
            union all
            select c.reltype from pg_catalog.pg_class as c
            where d.classid = 'pg_class'::regclass and c.oid = d.objid and c.reltype <> 0
        ) as x
    )
    select distinct w.id
    from over as o
    join pg_catalog.pg_attribute as a on a.atttypid = o.type and not a.attisdropped
    join unstale.watched as w on w.relation = a.attrelid and w.state = 'watched'
    where w.columns is null or a.attnum = any (w.column_numbers) or a.attnum = any (w.key_numbers)
$$;
comment on function unstale.shown(oid) is 'The watches of tables whose values have a type, or one made of it.';

create or replace function unstale.on_ddl() returns event_trigger
language plpgsql volatile security definer set search_path = ''
as $$
declare
    command  record;
    created  oid[] := '{}';
    followed integer[] := '{}';
    entries  integer[] := '{}';
    found_now integer[];
    watch_id integer;
begin
    if pg_catalog.current_setting('unstale.generating', true) = 'on' then
        return;
    end if;
    perform pg_catalog.set_config('unstale.generating', 'on', true);
    begin
        -- One small statement for each kind of object: most commands concern nobody, and pay for no more than this loop.
        for command in
            select d.objid, d.classid, d.command_tag
            from pg_catalog.pg_event_trigger_ddl_commands() as d
            where d.classid in ('pg_class'::regclass, 'pg_type'::regclass, 'pg_trigger'::regclass)
                and d.schema_name is distinct from 'pg_temp' and d.object_type not in ('index', 'sequence')
        loop
            if command.command_tag in ('CREATE TABLE', 'CREATE FOREIGN TABLE') then
                created := created || command.objid;
                -- Empty: nothing cached is affected by it.
                followed := followed || unstale.follow_leaf(command.objid);
            elsif command.command_tag = 'ALTER TYPE' then
                entries := entries || array(select unstale.shown(
                    case when command.classid = 'pg_type'::regclass then command.objid
                        else (select c.reltype from pg_catalog.pg_class as c where c.oid = command.objid) end));
            elsif command.classid = 'pg_class'::regclass and command.objid <> all (created) then
                found_now := array(select unstale.concerned(command.objid));
                if found_now <> '{}' then
                    entries := entries || found_now;
                    followed := followed || case when exists (
                        select from pg_catalog.pg_class as c where c.oid = command.objid and c.relispartition
                    ) then unstale.follow_leaf(command.objid) else found_now end;
                end if;
            elsif command.classid = 'pg_trigger'::regclass then
                -- A capture's trigger that was renamed.
                followed := followed || array(
                    select k.watch
                    from pg_catalog.pg_trigger as t
                    join pg_catalog.pg_proc as p on p.oid = t.tgfoid and p.pronamespace = 'unstale'::regnamespace
                    join unstale.captured as k on k.relation = t.tgrelid
                    where t.oid = command.objid);
            end if;
        end loop;
        for watch_id in select distinct f.id from pg_catalog.unnest(followed || entries) as f(id) order by f.id loop
            if watch_id = any (followed) then
                perform unstale.follow(watch_id, watch_id = any (entries));
            else
                perform unstale.invalidate_all(watch_id);
            end if;
        end loop;
    exception when others then
        raise warning 'unstale: captures could not follow this command: %', sqlerrm
            using hint = 'Run select * from unstale.check().';
    end;
    perform pg_catalog.set_config('unstale.generating', '', true);
end
$$;
comment on function unstale.on_ddl() is 'After DDL: captures of the altered tables are generated again.';

create or replace function unstale.on_drop() returns event_trigger
language plpgsql volatile security definer set search_path = ''
as $$
declare
    dropped  record;
    capture  text;
    gone     oid[];
begin
    if pg_catalog.current_setting('unstale.generating', true) = 'on' then
        return;
    end if;
    perform pg_catalog.set_config('unstale.generating', 'on', true);
    begin
        gone := array(
            select d.objid from pg_catalog.pg_event_trigger_dropped_objects() as d
            where d.classid = 'pg_class'::regclass and d.objsubid = 0 and d.object_type in ('table', 'foreign table')
                and not d.is_temporary);
        for dropped in
            select w.id, w.relation::oid = any (gone) as whole, w.problem is not null or pg_catalog.bool_or(d.changed) as rest,
                pg_catalog.bool_or(d.shown) as entry
            from (
                select g.relation, false as changed, true as shown from pg_catalog.unnest(gone) as g(relation)
                union all
                -- For example drop type ... cascade. After ALTER TABLE, on_ddl does it.
                select o.objid, true, true from pg_catalog.pg_event_trigger_dropped_objects() as o
                where o.classid = 'pg_class'::regclass and o.object_type = 'table column' and tg_tag <> 'ALTER TABLE'
                union all
                -- A capture's trigger, or its function with all its triggers. To stop captures, call unstale.unwatch().
                select pg_catalog.to_regclass(pg_catalog.format('%I.%I', o.address_names[1], o.address_names[2]))::oid,
                    true, false
                from pg_catalog.pg_event_trigger_dropped_objects() as o
                where o.object_type = 'trigger' and o.address_names[3] like 'unstale\_%'
            ) as d
            join unstale.captured as k on k.relation::oid = d.relation
            join unstale.watched as w on w.id = k.watch and w.state = 'watched'
            group by w.id order by w.id
        loop
            if dropped.whole then
                perform unstale.invalidate_all(dropped.id);
                update unstale.watched as w
                set state = 'gone', problem = 'the table is gone', changed_at = pg_catalog.clock_timestamp()
                where w.id = dropped.id;
                delete from unstale.captured as k where k.watch = dropped.id;
                foreach capture in array '{insert,update,delete,truncate}'::text[] loop
                    execute pg_catalog.format('drop function if exists unstale.%I() cascade',
                        pg_catalog.format('capture_%s_%s', dropped.id, capture));
                end loop;
            elsif dropped.rest then
                perform unstale.follow(dropped.id, dropped.entry);
            else
                -- One of any number of partitions: the others and the functions stay as they are.
                delete from unstale.captured as k where k.watch = dropped.id and k.relation::oid = any (gone);
                perform unstale.invalidate_all(dropped.id);
            end if;
        end loop;
    exception when others then
        raise warning 'unstale: captures could not follow this command: %', sqlerrm
            using hint = 'Run select * from unstale.check().';
    end;
    perform pg_catalog.set_config('unstale.generating', '', true);
end
$$;
comment on function unstale.on_drop() is 'After a table, partition, column or capture is dropped.';

revoke all on function
    unstale.follow(integer, boolean), unstale.follow_leaf(oid), unstale.concerned(oid), unstale.shown(oid),
    unstale.on_ddl(), unstale.on_drop()
from public;

do $$
begin
    -- Every command that can change what a capture depends on. CREATE SCHEMA may contain CREATE TABLE; ALTER VIEW, ALTER
    -- MATERIALIZED VIEW and ALTER INDEX also rename tables or their columns.
    if not exists (
        select from pg_catalog.pg_event_trigger as e where e.evtname = 'unstale_ddl' and 'ALTER TRIGGER' = any (e.evttags)
    ) then
        if exists (select from pg_catalog.pg_event_trigger as e where e.evtname = 'unstale_ddl') then
            drop event trigger unstale_ddl;
        end if;
        create event trigger unstale_ddl on ddl_command_end
            when tag in (
                'CREATE TABLE', 'CREATE FOREIGN TABLE', 'CREATE SCHEMA', 'ALTER TABLE', 'ALTER FOREIGN TABLE',
                'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'ALTER INDEX', 'ALTER TYPE', 'ALTER TRIGGER'
            )
            execute function unstale.on_ddl();
    end if;
    if not exists (select from pg_catalog.pg_event_trigger where evtname = 'unstale_drop') then
        create event trigger unstale_drop on sql_drop execute function unstale.on_drop();
    end if;
    begin
        -- Also under session_replication_role = replica.
        alter event trigger unstale_ddl enable always;
        alter event trigger unstale_drop enable always;
    exception when insufficient_privilege then
        null;
    end;
exception when insufficient_privilege then
    raise warning 'unstale: % may not create event triggers here: after each ALTER TABLE of a watched table call '
        'unstale.watch again, or have a superuser run this file', current_user;
end
$$;

-- Captures of an older release, or made before there were event triggers, become what they are now.
do $$
declare
    watch_id integer;
begin
    perform pg_catalog.set_config('unstale.generating', 'on', true);
    for watch_id in select w.id from unstale.watched as w where w.state = 'watched' order by w.id loop
        perform unstale.generate(watch_id, tolerant => true);
    end loop;
    perform pg_catalog.set_config('unstale.generating', '', true);
end
$$;
