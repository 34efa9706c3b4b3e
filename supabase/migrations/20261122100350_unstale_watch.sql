-- Watching: unstale.watch() creates the captures of a table, unstale.unwatch() removes them.
--
-- What:   the two functions, what they refuse and why, and unstale.generate() that makes captures what they should be.
-- Locks:  this file: none. unstale.watch() takes SHARE ROW EXCLUSIVE on the table, its partitions and its parents, for an instant;
--         unstale.unwatch() ACCESS EXCLUSIVE.
-- Undo:   select unstale.unwatch(w.relation) from unstale.watched as w; drop the functions created below.

create or replace function unstale.lock_attempt(out attempt text, out until timestamptz)
language sql volatile set search_path = ''
as $$
    -- A lock that waits makes every later writer of the table wait behind it. So each attempt is short, and between two
    -- of them nothing is locked. All of them together take as long as the session's lock_timeout allows.
    select
        case when s.allowed > interval '0' and s.allowed < interval '100 ms'
            then pg_catalog.current_setting('lock_timeout') else '100ms' end,
        pg_catalog.clock_timestamp() + case when s.allowed > interval '0' then s.allowed else interval '20 s' end
    from (select pg_catalog.current_setting('lock_timeout')::interval as allowed) as s
$$;
comment on function unstale.lock_attempt() is 'The lock_timeout of one attempt, and when to give up.';

create or replace function unstale.write_functions(watch_id integer, bodies jsonb) returns void
language plpgsql volatile set search_path = ''
as $$
declare
    operation    text;
    body         text;
    capture      text;
    capture_name text;
    owner_name   name;
begin
    select r.rolname into strict owner_name
    from pg_catalog.pg_namespace as n join pg_catalog.pg_roles as r on r.oid = n.nspowner
    where n.nspname = 'unstale';
    for operation, body in select b.key, b.value from pg_catalog.jsonb_each_text(bodies) as b loop
        capture_name := pg_catalog.format('capture_%s_%s', watch_id, operation);
        capture := pg_catalog.format('unstale.%I()', capture_name);
        continue when exists (
            select from pg_catalog.pg_proc as p
            where p.pronamespace = 'unstale'::regnamespace and p.proname = capture_name::name and p.prosrc = body
                and p.proconfig is not null and p.prosecdef
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
    update unstale.watched as w set bodies = h.bodies
    from (
        select pg_catalog.jsonb_object_agg(b.key, pg_catalog.md5(b.value)) as bodies
        from pg_catalog.jsonb_each_text(write_functions.bodies) as b
    ) as h
    where w.id = watch_id and w.bodies is distinct from h.bodies;
end
$$;
comment on function unstale.write_functions(integer, jsonb) is 'Makes the functions of a watch these; an equal one stays.';

create or replace function unstale.wanted_triggers(watch_id integer, transition boolean, only_member oid default null)
returns table (member oid, operation text, name text, argument text, referencing text, fits boolean, enabled "char")
language sql stable set search_path = ''
as $$
    with operations as materialized (
        select o.operation, p.oid as function, pg_catalog.format('unstale_%s_%s', watch_id, o.operation) as name,
            case when transition then o.referencing else '' end as referencing
        from (values
            ('insert', 'referencing new table as new_rows'),
            ('update', 'referencing old table as old_rows new table as new_rows'),
            ('delete', 'referencing old table as old_rows'),
            ('truncate', '')
        ) as o(operation, referencing)
        left join pg_catalog.pg_proc as p on p.pronamespace = 'unstale'::regnamespace
            -- A name: compared with text, each operation read all of pg_proc.
            and p.proname = pg_catalog.format('capture_%s_%s', watch_id, o.operation)::name
    ), members as materialized (
        select m.member, w.relation::oid, pg_catalog.format('%s:%s', w.relation::oid, m.member) as argument
        from unstale.watched as w
        cross join lateral (
            select x.member from unstale.members(w.relation) as x where only_member is null and x.kind in ('r', 'p')
            union all
            select only_member where only_member is not null
        ) as m
        where w.id = watch_id
    )
    select m.member, o.operation, o.name, m.argument, o.referencing,
        coalesce(
            t.tgfoid = o.function
            and t.tgargs = pg_catalog.convert_to(m.argument, 'UTF8') || '\x00'
            and (coalesce(t.tgoldtable, t.tgnewtable) is not null) = (o.referencing <> ''), false),
        t.tgenabled
    from members as m
    cross join operations as o
    left join pg_catalog.pg_trigger as t on t.tgrelid = m.member and t.tgname = o.name
    -- As writers lock them: a table before its partitions.
    order by m.member <> m.relation, m.member, o.operation
$$;
comment on function unstale.wanted_triggers(integer, boolean, oid) is
    'The triggers that a watch needs, on one table or on all; fits: false where it is missing or another.';

create or replace function unstale.place_triggers(
    watch_id integer, transition boolean, tolerant boolean, only_member oid default null
) returns text
language plpgsql volatile set search_path = ''
as $$
declare
    wanted   record;
    commands text;
    problem  text;
    placed   boolean;
begin
    -- No exception handlers in these loops: each is a subtransaction, and the end of one costs what the transaction holds.
    loop
        placed := false;
        for wanted in select * from unstale.wanted_triggers(watch_id, transition, only_member) as t where not t.fits loop
            if tolerant and not pg_catalog.has_table_privilege(wanted.member, 'TRIGGER') then
                problem := pg_catalog.format('%s has no captures: %s may not create triggers on it',
                    wanted.member::regclass, current_user);
                continue;
            end if;
            execute pg_catalog.format(
                'create or replace trigger %I after %s on %s %s for each statement execute function unstale.%I(%L)',
                wanted.name, wanted.operation, wanted.member::regclass, wanted.referencing,
                pg_catalog.format('capture_%s_%s', watch_id, wanted.operation), wanted.argument);
            placed := true;
        end loop;
        -- Again: a partition may have been attached before its parent was locked.
        exit when not placed;
    end loop;
    for wanted in
        select t.member, pg_catalog.bool_and(pg_catalog.pg_has_role(c.relowner, 'USAGE')) as ours,
            pg_catalog.string_agg(pg_catalog.format('enable always trigger %I', t.name), ', ' order by t.name) as commands
        from unstale.wanted_triggers(watch_id, transition, only_member) as t
        join pg_catalog.pg_class as c on c.oid = t.member
        where t.enabled <> 'A'
        group by t.member
    loop
        if wanted.ours then
            -- Also for writers under session_replication_role = replica (bulk loads, pg_restore).
            execute pg_catalog.format('alter table only %s %s', wanted.member::regclass, wanted.commands);
        else
            raise notice 'unstale: % is not ours: under session_replication_role = replica it is not captured',
                wanted.member::regclass;
        end if;
    end loop;
    return problem;
end
$$;
comment on function unstale.place_triggers(integer, boolean, boolean, oid) is
    'Creates the triggers that are missing or different; tolerant: returns what it may not do.';

create or replace function unstale.drop_misplaced(relations oid[]) returns void
language plpgsql volatile set search_path = ''
as $$
declare
    wrong record;
begin
    -- Of a detached partition, of a dump from another database, renamed, or of an older release.
    for wrong in
        select t.tgname, t.tgrelid::regclass as relation, c.relowner
        from pg_catalog.pg_trigger as t
        join pg_catalog.pg_class as c on c.oid = t.tgrelid
        join pg_catalog.pg_proc as p on p.oid = t.tgfoid
        where t.tgrelid = any (relations) and p.pronamespace = 'unstale'::regnamespace and p.proname like 'capture\_%'
            and not exists (
                select from unstale.captured as k
                where k.relation = t.tgrelid and k.carries
                    and p.proname like pg_catalog.format('capture\_%s\_%%', k.watch)
                    and t.tgname = 'unstale' || pg_catalog.substr(p.proname, 8)
            )
    loop
        if pg_catalog.pg_has_role(wrong.relowner, 'USAGE') then
            execute pg_catalog.format('drop trigger %I on %s', wrong.tgname, wrong.relation);
        else
            raise notice 'unstale: % is not ours: its trigger % stays, and does no harm', wrong.relation, wrong.tgname;
        end if;
    end loop;
end
$$;
comment on function unstale.drop_misplaced(oid[]) is 'Drops captures'' triggers that belong to no watch of their table.';

create or replace function unstale.place(watch_id integer, transition boolean, tolerant boolean) returns text
language plpgsql volatile set search_path = ''
as $$
declare
    problem  text;
    changed  oid[];
    attempt  record := unstale.lock_attempt();
    before   constant text := pg_catalog.current_setting('lock_timeout');
begin
    loop
        begin
            perform pg_catalog.set_config('lock_timeout', attempt.attempt, true);
            problem := unstale.place_triggers(watch_id, transition, tolerant);
            -- Only the difference is written: two sessions that create partitions do not wait for each other. With the
            -- tables beside, of which one that goes may end a problem.
            with family as materialized (
                select f.member, f.place <> 'beside' and f.kind in ('r', 'p') as carries
                from unstale.watched as w, unstale.family(w.relation) as f where w.id = watch_id
            ), gone as (
                delete from unstale.captured as c
                where c.watch = watch_id and c.relation::oid not in (select f.member from family as f)
                returning c.relation::oid as relation
            ), other as (
                insert into unstale.captured as c (watch, relation, carries)
                select watch_id, f.member, f.carries from family as f
                where not exists (
                    select from unstale.captured as k
                    where k.watch = watch_id and k.relation = f.member and k.carries = f.carries
                )
                on conflict on constraint captured_pkey do update set carries = excluded.carries
                returning c.relation::oid as relation
            )
            select pg_catalog.array_agg(c.relation) into changed
            from (
                select g.relation from gone as g
                union all select o.relation from other as o
                union all select f.member from family as f where f.carries
            ) as c;
            perform unstale.drop_misplaced(changed);
            perform pg_catalog.set_config('lock_timeout', before, true);
            return problem;
        exception when lock_not_available then
            if pg_catalog.clock_timestamp() > attempt.until then
                raise exception 'the writers of a table left no moment to change its captures: %', sqlerrm
                    using errcode = 'lock_not_available',
                        hint = 'Try again when no transaction that wrote to it stays open.';
            end if;
        end;
        perform pg_catalog.pg_sleep(0.2);
    end loop;
end
$$;
comment on function unstale.place(integer, boolean, boolean) is
    'Brings triggers and unstale.captured in line with the tables, in short lock attempts; returns a problem.';

create or replace function unstale.generate(watch_id integer, tolerant boolean default false) returns void
language plpgsql volatile set search_path = ''
as $$
declare
    wanted  record;
    reported text;
begin
    for attempt in 1 .. 3 loop
        select * into strict wanted from unstale.describe(watch_id);
        -- First the functions: whatever happens afterwards, no writer meets one that names a column that is gone.
        perform unstale.write_functions(watch_id, wanted.bodies);
        reported := unstale.place(watch_id, wanted.transition, tolerant);
        -- A table may have joined the family before it was locked.
        exit when tolerant or (select d.bodies = wanted.bodies from unstale.describe(watch_id) as d);
    end loop;
    if wanted.transition and exists (
        select from unstale.wanted_triggers(watch_id, true) as t
        join pg_catalog.pg_trigger as g on g.tgrelid = t.member and g.tgname = t.name
        where t.referencing <> '' and coalesce(g.tgoldtable, g.tgnewtable) is null
    ) then
        -- Not ours to replace, and without the rows that the functions would look at.
        select * into strict wanted from unstale.describe(watch_id, reported);
        perform unstale.write_functions(watch_id, wanted.bodies);
    end if;
    if reported is not null then
        raise warning 'unstale: %', reported;
    end if;
    reported := coalesce(reported, wanted.problem);
    -- The numbers too: a column that was dropped and added again is known by the new one when it is renamed.
    update unstale.watched as w
    set problem = reported, key_numbers = n.keys, column_numbers = n.columns, numbered = w.relation::oid
    from (
        select
            (select pg_catalog.array_agg(coalesce(r.number, x.key_numbers[r.ordinal]) order by r.ordinal)
             from unstale.resolve(x.relation, x.key_columns, x.key_numbers) as r) as keys,
            (select pg_catalog.array_agg(coalesce(r.number, x.column_numbers[r.ordinal]) order by r.ordinal)
             from unstale.resolve(x.relation, x.columns, x.column_numbers) as r) as columns
        from unstale.numbered(watch_id) as x
    ) as n
    where w.id = watch_id and (w.problem, w.key_numbers, w.column_numbers, w.numbered)
        is distinct from (reported, n.keys, n.columns, w.relation::oid);
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

    -- Two sessions that watch wait for each other here. It is a lock that no other role can take.
    lock table unstale.versions in share row exclusive mode;
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
        numbered = watch.relation::oid,
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
            using detail = 'Until then its captures write whole-table entries. If a column that is no key was renamed, '
                'cached values keep the old name until their row changes.';
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
    attempt record := unstale.lock_attempt();
    before  constant text := pg_catalog.current_setting('lock_timeout');
begin
    select * into w from unstale.watched as x where x.relation = unwatch.relation and x.state = 'watched' for update;
    if not found then
        return false;
    end if;
    perform unstale.invalidate_all(w.id);
    perform pg_catalog.set_config('unstale.generating', 'on', true);
    loop
        begin
            perform pg_catalog.set_config('lock_timeout', attempt.attempt, true);
            for capture in
                select p.oid from pg_catalog.pg_proc as p
                where p.pronamespace = 'unstale'::regnamespace
                    and p.proname in (select pg_catalog.format('capture_%s_%s', w.id, o.operation)
                                      from pg_catalog.unnest('{insert,update,delete,truncate}'::text[]) as o(operation))
            loop
                -- Takes the triggers along, also those on tables of somebody else.
                execute pg_catalog.format('drop function %s cascade', capture);
            end loop;
            perform pg_catalog.set_config('lock_timeout', before, true);
            exit;
        exception when lock_not_available then
            if pg_catalog.clock_timestamp() > attempt.until then
                raise exception 'the writers of % left no moment to remove its captures', unwatch.relation
                    using errcode = 'lock_not_available',
                        hint = 'Try again when no transaction that wrote to it stays open.';
            end if;
        end;
        perform pg_catalog.pg_sleep(0.2);
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
