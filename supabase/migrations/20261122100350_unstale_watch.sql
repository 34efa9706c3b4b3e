-- Watching: unstale.watch() creates the captures of a table, unstale.unwatch() removes them.
--
-- What:   the two functions, what they refuse and why, and unstale.generate() that makes captures what they should be.
-- Locks:  this file: none. unstale.watch() takes SHARE ROW EXCLUSIVE on the table, its partitions and its parents, for an instant;
--         unstale.unwatch() ACCESS EXCLUSIVE.
-- Undo:   select unstale.unwatch(w.relation) from unstale.watched as w; drop the functions created below.

create or replace function unstale.generate(watch_id integer, tolerant boolean default false) returns void
language plpgsql volatile set search_path = ''
as $$
declare
    wanted       record;
    operation    text;
    body         text;
    capture      text;
    capture_name text;
    trigger_name text;
    referencing  text;
    member       regclass;
    existing     record;
    owner_name   name;
begin
    select * into strict wanted from unstale.describe(watch_id);
    select r.rolname into strict owner_name
    from pg_catalog.pg_namespace as n join pg_catalog.pg_roles as r on r.oid = n.nspowner
    where n.nspname = 'unstale';

    -- First all functions: whatever happens afterwards, no writer meets one that names a column that is gone.
    for operation, body in select b.key, b.value from pg_catalog.jsonb_each_text(wanted.bodies) as b loop
        capture_name := pg_catalog.format('capture_%s_%s', watch_id, operation);
        capture := pg_catalog.format('unstale.%I()', capture_name);
        continue when exists (
            select from pg_catalog.pg_proc as p
            where p.pronamespace = 'unstale'::regnamespace and p.proname = capture_name and p.prosrc = body
                and p.proconfig is not null
        );
        execute pg_catalog.format(
            'create or replace function %s returns trigger language plpgsql volatile security definer '
                'set search_path = '''' as %L',
            capture, body);
        execute pg_catalog.format('revoke all on function %s from public', capture);
        if owner_name <> current_user then
            execute pg_catalog.format('alter function %s owner to %I', capture, owner_name);
        end if;
    end loop;

    for operation, member in
        select b.key, m.member
        from unstale.watched as w, unstale.members(w.relation) as m, pg_catalog.jsonb_each(wanted.bodies) as b
        where w.id = watch_id and m.kind in ('r', 'p')
        order by m.member, b.key
    loop
        trigger_name := pg_catalog.format('unstale_%s_%s', watch_id, operation);
        referencing := case
            when not wanted.transition then ''
            when operation = 'insert' then 'referencing new table as new_rows'
            when operation = 'delete' then 'referencing old table as old_rows'
            when operation = 'update' then 'referencing old table as old_rows new table as new_rows'
            else ''
        end;
        -- Only what is missing or different: each of these commands locks out writers.
        select t.tgenabled, coalesce(t.tgoldtable, t.tgnewtable) is not null as transition into existing
        from pg_catalog.pg_trigger as t where t.tgrelid = member and t.tgname = trigger_name;
        begin
            if not found or existing.transition <> (referencing <> '') then
                execute pg_catalog.format(
                    'create or replace trigger %I after %s on %s %s for each statement execute function unstale.%I()',
                    trigger_name, operation, member, referencing,
                    pg_catalog.format('capture_%s_%s', watch_id, operation));
                existing.tgenabled := 'O';
            end if;
        exception when insufficient_privilege then
            if not tolerant then
                raise;
            end if;
            wanted.problem := pg_catalog.format('%s has no captures: %s', member, sqlerrm);
            raise warning 'unstale: %', wanted.problem;
            continue;
        end;
        if existing.tgenabled <> 'A' then
            begin
                -- Also for writers under session_replication_role = replica (bulk loads, pg_restore).
                execute pg_catalog.format('alter table %s enable always trigger %I', member, trigger_name);
            exception when insufficient_privilege then
                raise notice 'unstale: % is not ours: under session_replication_role = replica its % is not captured',
                    member, operation;
            end;
        end if;
    end loop;

    -- A partition or parent that was detached keeps its triggers until here.
    for member in
        select c.relation from unstale.captured as c join pg_catalog.pg_class as k on k.oid = c.relation
        where c.watch = watch_id and not exists (
            select from unstale.watched as w, unstale.members(w.relation) as m
            where w.id = watch_id and m.member = c.relation
        )
    loop
        for trigger_name in
            select t.tgname from pg_catalog.pg_trigger as t
            where t.tgrelid = member and t.tgname like pg_catalog.format('unstale\_%s\_%%', watch_id)
        loop
            begin
                execute pg_catalog.format('drop trigger %I on %s', trigger_name, member);
            exception when insufficient_privilege then
                raise notice 'unstale: % is not ours: its trigger % stays, and does no harm', member, trigger_name;
            end;
        end loop;
    end loop;
    delete from unstale.captured as c where c.watch = watch_id;
    -- With those beside it: one that goes may end a problem.
    insert into unstale.captured (watch, relation)
    select w.id, f.member from unstale.watched as w, unstale.family(w.relation) as f where w.id = watch_id;
    update unstale.watched as w
    set problem = wanted.problem,
        bodies = (select pg_catalog.jsonb_object_agg(b.key, pg_catalog.md5(b.value))
                  from pg_catalog.jsonb_each_text(wanted.bodies) as b)
    where w.id = watch_id;
end
$$;
comment on function unstale.generate(integer, boolean) is
    'Makes the captures of a watch what the table needs now; tolerant: warns about a partition that is not ours.';

create or replace function unstale.refuse_unwatchable(relation regclass) returns void
language plpgsql stable set search_path = ''
as $$
declare
    t       record;
    offender regclass;
begin
    select c.relkind, c.relpersistence, n.nspname into t
    from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.oid = relation;
    if not found then
        raise exception 'no table with oid %', relation::oid using errcode = 'undefined_table';
    elsif t.relkind not in ('r', 'p') then
        raise exception 'cannot watch %: it is a %, not a table', relation,
            case t.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table'
                when 'S' then 'sequence' when 'i' then 'index' else 'relation of another kind' end
            using errcode = 'UN001', hint = 'Watch the tables it reads from.';
    elsif t.relpersistence <> 'p' then
        raise exception 'cannot watch %: it is %', relation,
            case t.relpersistence when 't' then 'a temporary table' else 'an unlogged table, emptied after a crash' end
            using errcode = 'UN001', hint = case t.relpersistence when 't'
                then 'Nobody else sees its rows; watch the table they come from.'
                else 'Use an ordinary table: alter table ... set logged.' end;
    elsif t.nspname in ('pg_catalog', 'information_schema', 'unstale') or t.nspname like 'pg\_toast%' then
        raise exception 'cannot watch %: it belongs to the system', relation
            using errcode = 'UN001', hint = 'Watch the tables of your own that your loaders read.';
    end if;
    select m.member into offender from unstale.members(relation) as m where m.kind = 'f' limit 1;
    if found then
        raise exception 'cannot watch %: its partition, child or parent % is a foreign table', relation, offender
            using errcode = 'UN001', hint = 'Changes made on another server fire no triggers here.';
    end if;
    select m.member into offender
    from unstale.members(relation) as m join pg_catalog.pg_subscription_rel as s on s.srrelid = m.member limit 1;
    if found then
        raise exception 'cannot watch %: % is fed by logical replication, which fires no statement triggers',
            relation, offender using errcode = 'UN006', hint = 'Watch the table where it is written.';
    end if;
    select m.member into offender
    from unstale.members(relation) as m
    where m.kind in ('r', 'p') and not pg_catalog.has_table_privilege(m.member, 'TRIGGER') limit 1;
    if found then
        raise exception 'cannot watch %: % may not create triggers on %', relation, current_user, offender
            using errcode = 'UN007',
                hint = pg_catalog.format('grant trigger on table %s to %I', offender, current_user);
    end if;
end
$$;
comment on function unstale.refuse_unwatchable(regclass) is 'Raises the reason why a table cannot be watched.';

create or replace function unstale.refuse_columns(relation regclass, keys text[], columns text[]) returns void
language plpgsql stable set search_path = ''
as $$
declare
    c record;
begin
    if coalesce(pg_catalog.cardinality(keys), 0) = 0 or pg_catalog.array_ndims(keys) <> 1
        or pg_catalog.array_ndims(columns) <> 1 or columns = '{}'
        or pg_catalog.array_position(keys, null) is not null or pg_catalog.array_position(columns, null) is not null
        or (select pg_catalog.count(distinct k) from pg_catalog.unnest(keys) as k) <> pg_catalog.cardinality(keys)
        or (select pg_catalog.count(distinct k) from pg_catalog.unnest(columns) as k) <> pg_catalog.cardinality(columns)
    then
        raise exception 'cannot watch %: keys and columns must each name one column or more, none twice', relation
            using errcode = 'UN005', hint = 'For example: select unstale.watch(''public.profiles'', ''{id}'').';
    end if;
    for c in
        select r.*, r.ordinal <= pg_catalog.cardinality(keys) as is_key
        from unstale.resolve(relation, keys || columns, '{}') as r order by r.ordinal
    loop
        if c.name is null then
            raise exception 'cannot watch %: it has no column %', relation, pg_catalog.quote_ident(c.label)
                using errcode = 'UN002', hint = 'Names are case sensitive here, and written without quotes.';
        elsif c.generated = 'v' then
            raise exception 'cannot watch %: column % is a virtual generated column, which triggers cannot see',
                relation, pg_catalog.quote_ident(c.label)
                using errcode = 'UN004', hint = 'Make it stored, or name the columns it is computed from.';
        elsif c.is_key and unstale.key_expression(c.name, c.type) is null then
            raise exception 'cannot watch %: key column % has type %', relation, pg_catalog.quote_ident(c.label),
                pg_catalog.format_type(c.type, null)
                using errcode = 'UN003',
                    hint = 'Keys are made of smallint, integer, bigint, text, varchar, uuid, boolean and enum columns.';
        end if;
    end loop;
    if columns is not null and not exists (
        select from pg_catalog.pg_index as i where i.indrelid = relation and i.indisprimary
    ) then
        raise exception 'cannot watch columns of %: it has no primary key to tell its rows apart', relation
            using errcode = 'UN008', hint = 'Add a primary key, or leave out columns.';
    end if;
end
$$;
comment on function unstale.refuse_columns(regclass, text[], text[]) is 'Raises the reason why columns cannot be captured.';

create or replace function unstale.watch(
    relation regclass, keys text[], columns text[] default null,
    out watch integer, out version integer
)
language plpgsql volatile set search_path = ''
as $$
declare
    w        unstale.watched;
    other    regclass;
    name_now record;
begin
    perform unstale.refuse_unwatchable(relation);
    perform unstale.refuse_columns(relation, keys, columns);
    select n.nspname::text as table_schema, c.relname::text as table_name into name_now
    from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.oid = watch.relation;

    -- Two sessions that watch the same table wait for each other here.
    perform pg_catalog.pg_advisory_xact_lock(1970496884, 2);
    -- Another table that had this name when it was watched has it no longer.
    for other in
        select x.relation from unstale.watched as x
        where (x.table_schema, x.table_name) = (name_now.table_schema, name_now.table_name)
            and x.state = 'watched' and x.relation <> watch.relation
    loop
        perform unstale.unwatch(other);
    end loop;

    select * into w from unstale.watched as x where x.relation = watch.relation;
    if not found then
        insert into unstale.watched as x (relation, table_schema, table_name, key_columns, key_numbers)
        values (watch.relation, name_now.table_schema, name_now.table_name, keys, '{}')
        returning * into w;
    elsif (w.table_schema, w.table_name, w.key_columns) is distinct from (name_now.table_schema, name_now.table_name, keys)
        or w.columns is distinct from watch.columns or w.state <> 'watched'
    then
        w.version := w.version + 1;
    end if;
    update unstale.watched as x
    set version = w.version,
        state = 'watched',
        table_schema = name_now.table_schema,
        table_name = name_now.table_name,
        key_columns = keys,
        key_numbers = (select pg_catalog.array_agg(r.number order by r.ordinal)
                       from unstale.resolve(watch.relation, keys, '{}') as r),
        columns = watch.columns,
        column_numbers = (select pg_catalog.array_agg(r.number order by r.ordinal)
                          from unstale.resolve(watch.relation, watch.columns, '{}') as r),
        changed_at = pg_catalog.clock_timestamp()
    where x.id = w.id;
    insert into unstale.versions (watch, version, table_schema, table_name, key_columns)
    values (w.id, w.version, name_now.table_schema, name_now.table_name, keys)
    on conflict do nothing;

    perform pg_catalog.set_config('unstale.generating', 'on', true);
    perform unstale.generate(w.id);
    perform pg_catalog.set_config('unstale.generating', '', true);
    if not unstale.follows_ddl() then
        raise warning 'unstale: no event trigger follows changes of % (only a superuser, or postgres on Supabase, may '
            'create one): call unstale.watch again after each ALTER TABLE', relation
            using detail = 'Until then its captures write whole-table entries.';
    end if;
    -- Whatever was cached while nothing watched is not to be trusted.
    perform unstale.invalidate_all(w.id);
    watch := w.id;
    version := w.version;
end
$$;
comment on function unstale.watch(regclass, text[], text[]) is
    'Captures changes of a table: the distinct values of the columns in keys; with columns, only updates of these.';

create or replace function unstale.unwatch(relation regclass) returns boolean
language plpgsql volatile set search_path = ''
as $$
declare
    w       unstale.watched;
    capture regprocedure;
begin
    select * into w from unstale.watched as x where x.relation = unwatch.relation and x.state = 'watched' for update;
    if not found then
        return false;
    end if;
    perform unstale.invalidate_all(w.id);
    perform pg_catalog.set_config('unstale.generating', 'on', true);
    for capture in
        select p.oid from pg_catalog.pg_proc as p
        where p.pronamespace = 'unstale'::regnamespace
            and p.proname in (select pg_catalog.format('capture_%s_%s', w.id, o.operation)
                              from pg_catalog.unnest('{insert,update,delete,truncate}'::text[]) as o(operation))
    loop
        -- Takes the triggers along, also those on tables of somebody else.
        execute pg_catalog.format('drop function %s cascade', capture);
    end loop;
    perform pg_catalog.set_config('unstale.generating', '', true);
    delete from unstale.captured as c where c.watch = w.id;
    update unstale.watched as x
    set state = 'unwatched', problem = null, changed_at = pg_catalog.clock_timestamp()
    where x.id = w.id;
    return true;
end
$$;
comment on function unstale.unwatch(regclass) is 'Removes the captures of a table; false if it was not watched.';

revoke all on all functions in schema unstale from public;
