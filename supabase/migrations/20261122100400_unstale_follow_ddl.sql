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
begin
    begin
        perform unstale.generate(watch_id, tolerant => true);
    exception when others then
        raise warning 'unstale: captures of watch % could not be generated again: %', watch_id, sqlerrm
            using hint = 'Run select * from unstale.check().';
    end;
    if with_entry then
        perform unstale.invalidate_all(watch_id);
    end if;
end
$$;
comment on function unstale.follow(integer, boolean) is 'Brings one watch in line with its table after DDL.';

create or replace function unstale.on_ddl() returns event_trigger
language plpgsql volatile security definer set search_path = ''
as $$
declare
    affected record;
begin
    if pg_catalog.current_setting('unstale.generating', true) = 'on' then
        return;
    end if;
    perform pg_catalog.set_config('unstale.generating', 'on', true);
    begin
        for affected in
            with commands as (
                select d.objid, d.classid, d.command_tag from pg_catalog.pg_event_trigger_ddl_commands() as d
            ), altered as (
                -- The table itself, its family of today, and the one it had before (DETACH).
                select w.id, c.command_tag
                from commands as c
                join unstale.captured as k on c.classid = 'pg_class'::regclass and k.relation = c.objid
                join unstale.watched as w on w.id = k.watch and w.state = 'watched'
                union all
                select w.id, c.command_tag
                from commands as c
                join unstale.watched as w on w.state = 'watched'
                where c.classid = 'pg_class'::regclass
                    and exists (
                        select from pg_catalog.pg_inherits as i where c.objid in (i.inhrelid, i.inhparent)
                    )
                    and exists (select from unstale.family(w.relation) as f where f.member = c.objid)
                union all
                -- An enum's value may have another name now, and keys are made of names.
                select w.id, c.command_tag
                from commands as c
                join unstale.watched as w on w.state = 'watched'
                where c.classid = 'pg_type'::regclass and exists (
                    select from unstale.resolve(w.relation, w.key_columns || w.columns, '{}') as r
                    where unstale.base_type(r.type) = c.objid or r.type = c.objid
                )
            )
            -- A partition that was just created is empty: nothing cached is affected by it.
            select a.id, pg_catalog.bool_or(a.command_tag not like 'CREATE %') as with_entry
            from altered as a group by a.id order by a.id
        loop
            perform unstale.follow(affected.id, affected.with_entry);
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
begin
    if pg_catalog.current_setting('unstale.generating', true) = 'on' then
        return;
    end if;
    perform pg_catalog.set_config('unstale.generating', 'on', true);
    begin
        for dropped in
            select distinct w.id, w.relation::oid in (
                select o.objid from pg_catalog.pg_event_trigger_dropped_objects() as o
                where o.object_type = 'table' and o.objsubid = 0
            ) as whole
            from pg_catalog.pg_event_trigger_dropped_objects() as d
            join unstale.captured as k on k.relation::oid = d.objid
            join unstale.watched as w on w.id = k.watch and w.state = 'watched'
            where d.classid = 'pg_class'::regclass and d.object_type in ('table', 'foreign table', 'table column')
            order by w.id
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
            elsif tg_tag <> 'ALTER TABLE' then
                -- For example drop type ... cascade. After ALTER TABLE, on_ddl does it.
                perform unstale.follow(dropped.id, true);
            end if;
        end loop;
    exception when others then
        raise warning 'unstale: captures could not follow this command: %', sqlerrm
            using hint = 'Run select * from unstale.check().';
    end;
    perform pg_catalog.set_config('unstale.generating', '', true);
end
$$;
comment on function unstale.on_drop() is 'After a table, partition or column is dropped.';

revoke all on function unstale.follow(integer, boolean), unstale.on_ddl(), unstale.on_drop() from public;

do $$
begin
    if not exists (select from pg_catalog.pg_event_trigger where evtname = 'unstale_ddl') then
        create event trigger unstale_ddl on ddl_command_end
            when tag in ('ALTER TABLE', 'CREATE TABLE', 'ALTER TYPE', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE')
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
