-- Captures: the text of the triggers that write a watched table's changes to the outbox.
--
-- What:   unstale.describe() and what it is made of: for each watched table and operation the body of one function, fired
--         once a statement with transition tables.
-- Why:    generated, because collecting exactly the key columns as text[] costs half of what jsonb costs.
-- Rules:  a capture never makes a statement fail and never waits; it names every object in full, because it runs with
--         its owner's rights (under an empty search_path, too: 3 % of a single-row update); it leaves the writer's session as it was
--         (no sequence: lastval(); no random(): setseed()).
-- Locks:  none. Re-running replaces the functions.
-- Undo:   drop the functions created below, after those of unstale_watch.

do $$
begin
    -- Of an earlier state, and called by nothing now.
    if pg_catalog.to_regprocedure('unstale.compare_expression(text, oid)') is not null then
        drop function unstale.compare_expression(text, oid);
    end if;
    if pg_catalog.to_regprocedure('unstale.describe(integer)') is not null then
        drop function unstale.describe(integer);
    end if;
    if pg_catalog.to_regprocedure('unstale.sleep_lock()') is not null then
        drop function unstale.sleep_lock();
    end if;
end
$$;

create or replace function unstale.base_type(type oid) returns oid
language sql stable set search_path = ''
as $$
    with recursive chain as (
        select t.oid, t.typtype, t.typbasetype from pg_catalog.pg_type as t where t.oid = type
        union all
        select t.oid, t.typtype, t.typbasetype
        from chain as c join pg_catalog.pg_type as t on c.typtype = 'd' and t.oid = c.typbasetype
    )
    select c.oid from chain as c where c.typtype <> 'd'
$$;
comment on function unstale.base_type(oid) is 'The type below a domain; any other type itself.';

create or replace function unstale.key_expression(column_name text, type oid) returns text
language sql stable set search_path = ''
as $$
    -- The value as Python's str() gives it, so that keys meet the agents' f-strings. Built-in casts and functions only:
    -- a cast somebody defined for a type of theirs would run with our rights. More than 512 bytes is cut to 513
    -- characters: the worker then invalidates the pattern, and no statement can make an entry too large.
    -- `collate "C"`: a nondeterministic collation would take two keys for one.
    select case
        when b.oid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype)
            then pg_catalog.format('r.%I::pg_catalog.text collate pg_catalog."C"', column_name)
        when b.oid in ('text'::regtype, 'varchar'::regtype)
            then pg_catalog.format(
                'case when pg_catalog.octet_length(r.%1$I::pg_catalog.text) operator(pg_catalog.>) 512 '
                'then pg_catalog.left(r.%1$I::pg_catalog.text, 513) else r.%1$I::pg_catalog.text end '
                'collate pg_catalog."C"', column_name)
        when b.oid = 'bool'::regtype
            then pg_catalog.format(
                'case when r.%1$I then ''True''::pg_catalog.text when r.%1$I is false then ''False''::pg_catalog.text '
                'end collate pg_catalog."C"', column_name)
        -- By its output function, which no renamed type or schema changes. It takes no domain, and format() does.
        when b.typtype = 'e' and b.oid = type
            then pg_catalog.format('pg_catalog.textin(pg_catalog.enum_out(r.%I)) collate pg_catalog."C"', column_name)
        when b.typtype = 'e'
            then pg_catalog.format(
                'case when r.%1$I is not null then pg_catalog.format(''%%s'', r.%1$I) end collate pg_catalog."C"',
                column_name)
    end
    from pg_catalog.pg_type as b
    where b.oid = unstale.base_type(type)
$$;
comment on function unstale.key_expression(text, oid) is 'SQL for a key column of row r as text; null: unsupported type.';

create or replace function unstale.key_bytes(type oid) returns integer
language sql stable set search_path = ''
as $$
    select case unstale.base_type(type)
        when 'int2'::regtype then 12 when 'int4'::regtype then 12 when 'int8'::regtype then 16
        when 'uuid'::regtype then 40 when 'bool'::regtype then 12
        else 32
    end
$$;
comment on function unstale.key_bytes(oid) is 'About how many bytes a key element of this type takes in an entry.';

create or replace function unstale.match_expression(column_name text, type oid) returns text
language sql stable set search_path = ''
as $$
    -- What two rows of one primary key have in common. Built-in types that hash go as they are. Others go as a record,
    -- whose equality is that of the type and needs no name of an operator in somebody's schema.
    select case
        when b.oid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype, 'bool'::regtype,
                       'date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype, 'numeric'::regtype, 'oid'::regtype)
            then pg_catalog.format('r.%I::pg_catalog.%I', column_name, b.typname)
        when b.oid in ('text'::regtype, 'varchar'::regtype)
            then pg_catalog.format('r.%I::pg_catalog.text collate pg_catalog."C"', column_name)
        else pg_catalog.format('row(r.%I)', column_name)
    end
    from pg_catalog.pg_type as b
    where b.oid = unstale.base_type(type)
$$;
comment on function unstale.match_expression(text, oid) is 'SQL for a primary key column of row r, to match old and new rows.';

create or replace function unstale.family(relation oid) returns table (member oid, kind "char", place text)
language plpgsql stable set search_path = ''
as $$
declare
    -- A statement fires the statement triggers of the table it names and of no other. So partitions of every level and
    -- tables that inherit need captures of their own, and so does every table through which one of them can be written:
    -- a parent that nobody watches, of a partition that somebody does.
    below  oid[] := array[relation];
    above  oid[] := '{}';
    beside oid[] := '{}';
    level  oid[] := below;
begin
    -- Level by level: with a recursive query the planner expects billions of rows, and reads all of pg_inherits.
    loop
        level := array(
            select i.inhrelid from pg_catalog.pg_inherits as i where i.inhparent = any (level)
            except select b from pg_catalog.unnest(below) as b);
        exit when level = '{}';
        below := below || level;
    end loop;
    level := below;
    loop
        level := array(
            select i.inhparent from pg_catalog.pg_inherits as i where i.inhrelid = any (level)
            except select b from pg_catalog.unnest(below || above) as b);
        exit when level = '{}';
        above := above || level;
    end loop;
    level := above;
    while level <> '{}' loop
        level := array(
            select i.inhrelid from pg_catalog.pg_inherits as i where i.inhparent = any (level)
            except select b from pg_catalog.unnest(below || above || beside) as b);
        beside := beside || level;
    end loop;
    return query
        select t.member, c.relkind, t.place
        from (
            select b.member, 'below' as place from pg_catalog.unnest(below) as b(member)
            union all select a.member, 'above' from pg_catalog.unnest(above) as a(member)
            union all select o.member, 'beside' from pg_catalog.unnest(beside) as o(member)
        ) as t
        -- Temporary children: only their own session sees them, and nobody else may create triggers on them.
        join pg_catalog.pg_class as c on c.oid = t.member and c.relpersistence <> 't';
end
$$;
comment on function unstale.family(oid) is
    'A table and all below it (partitions, children); all above these (parents); and what is beside it, below a parent.';

create or replace function unstale.members(relation oid) returns table (member oid, kind "char")
language sql stable set search_path = ''
as $$ select f.member, f.kind from unstale.family(relation) as f where f.place <> 'beside' $$;
comment on function unstale.members(oid) is 'The tables that carry the captures of a watch: every one it can be written through.';

create or replace function unstale.wake() returns void
language plpgsql volatile set search_path = ''
as $$
declare
    now_is constant double precision := pg_catalog.date_part('epoch', pg_catalog.clock_timestamp());
begin
    -- Never at the price of the transaction: NOTIFY fails in one that is prepared, and where the queue is full.
    if pg_catalog.pg_sequence_last_value('unstale.notify_wanted'::pg_catalog.regclass) > now_is
        and pg_catalog.current_setting('max_prepared_transactions') = '0'
        and pg_catalog.pg_notification_queue_usage() < 0.5
    then
        perform pg_catalog.pg_notify('unstale_wakeup', '');
    end if;
    -- Asked here too, because tell() begins a subtransaction. Also where the clock was set back.
    if pg_catalog.pg_sequence_last_value('unstale.wakeups_wanted'::pg_catalog.regclass) > now_is
        and coalesce(pg_catalog.abs(
            now_is * 1000 - pg_catalog.pg_sequence_last_value('unstale.wakeups_told'::pg_catalog.regclass)) >= 100, true)
    then
        perform unstale.tell();
    end if;
end
$$;
comment on function unstale.wake() is 'Sends a wake-up if a worker sleeps, and tells one that reads over HTTPS.';

create or replace function unstale.invalidate_all(watch_id integer) returns void
language sql volatile set search_path = ''
as $$
    insert into unstale.outbox (watch, version, keys)
    select w.id, w.version, null from unstale.watched as w where w.id = watch_id;
    select unstale.wake();
$$;
comment on function unstale.invalidate_all(integer) is 'Writes a whole-table entry: every key the table concerns is dropped.';

create or replace function unstale.resolve(
    relation oid, names text[], numbers smallint[]
) returns table (ordinal bigint, label text, name text, number smallint, type oid, generated "char")
language sql stable set search_path = ''
as $$
    -- A column by its name, else by the number it had: renamed, it goes on feeding the rule that knows the old name.
    select l.ordinal, l.label, a.attname::text, a.attnum, a.atttypid, a.attgenerated
    from pg_catalog.unnest(names) with ordinality as l(label, ordinal)
    left join lateral (
        select c.attname, c.attnum, c.atttypid, c.attgenerated
        from pg_catalog.pg_attribute as c
        where c.attrelid = relation and c.attnum > 0 and not c.attisdropped
            and (c.attname = l.label or c.attnum = numbers[l.ordinal])
        order by c.attname = l.label desc
        limit 1
    ) as a on true
$$;
comment on function unstale.resolve(oid, text[], smallint[]) is 'Columns of a table today; nulls where one is gone.';

create or replace function unstale.numbered(watch_id integer) returns unstale.watched
language plpgsql stable set search_path = ''
as $$
declare
    w unstale.watched;
begin
    select * into w from unstale.watched as x where x.id = watch_id;
    -- A dump leaves dropped columns out, so the restored table counts its columns anew.
    if w.numbered is distinct from w.relation::oid then
        w.key_numbers := '{}';
        w.column_numbers := '{}';
    end if;
    return w;
end
$$;
comment on function unstale.numbered(integer) is 'A watch, without numbers of columns that another table had.';

create or replace function unstale.follows_ddl() returns boolean
language sql stable set search_path = ''
as $$
    select pg_catalog.count(*) = 2 from pg_catalog.pg_event_trigger as e
    where e.evtname in ('unstale_ddl', 'unstale_drop') and e.evtenabled in ('O', 'A')
$$;
comment on function unstale.follows_ddl() is 'Whether the event triggers are in place.';

create or replace function unstale.misplaced(watch_id integer, relation oid) returns boolean
language sql stable set search_path = ''
as $$
    select not exists (
        select from unstale.captured as k
        where k.watch = watch_id and k.relation = misplaced.relation and k.carries
    )
$$;
comment on function unstale.misplaced(integer, oid) is
    'True if a table has a trigger of a watch it does not belong to: it came with a dump.';

create or replace function unstale.describe(
    watch_id integer, whole text default null,
    out problem text, out transition boolean, out bodies jsonb
)
language plpgsql stable set search_path = ''
as $$
declare
    w          unstale.watched;
    keys       record;
    cols       record;
    pkey       record;
    filtered   boolean := false;
    operation  text;
    letter     text;      -- what unstale.outbox.operation is
    tuple      text;      -- the key columns of row r as one element of an array
    distinct_tuples text; -- a query for the distinct tuples of a statement, as d.k1, d.k2, ...
    picked     text;      -- k1, k2, ... of row d
    aggregated text;      -- the tuple of row c
    single     text;      -- what writes the entry of a statement that changed one row
    image      text;      -- the columns of row r by which an old and a new row are compared
    side       constant text := 'select true as there, %s, %s, row(%s) as image from %s as r'; -- of that comparison
    everything text;
    start      text;      -- of every body
    parent     regclass;  -- a table above, if there is one
    keyless    regclass;  -- one that lacks a key column
    child      regclass;  -- a table below that is no partition
    element    text;      -- the only key column of row r, where it is the primary key, and its type one of fixed length
    chunk_rows integer;   -- in one entry
    changed_rows text;    -- the transition table of the operation; an update also has old_rows
    sliced     text;      -- what writes the entries of many rows by slices of arrays of such elements
    guard      text := ''; -- where no event trigger can follow DDL: are the columns still there?
    -- Measured on 2 cores, 8 writers: the share of a transaction is the second query, so one row, the usual case, gets
    -- by with arrays from two sub-selects (55 us against 63 with the general query, 29 without any capture).
    -- Many rows, keyed by such a primary key: no key comes twice, and array elements of fixed length are reached at
    -- once, so an entry is a slice. Half the cost of the general query (100,000 rows: 62 ms without capture, 125, 180).
    -- Old and new arrays that are equal hold the same keys; where they differ, in order or more, the general query
    -- is next. Up to 250,000 rows, to bound the memory. (A trigger on changed keys, `when (old.id <> new.id)`, would
    -- spare the old rows, but Postgres refuses to drop or retype a column that a trigger's condition names.)
    -- (All operator(...) bind alike, from left to right: the parentheses keep entries of one transaction apart.)
    slices     constant text := $q$        insert into unstale.outbox (id, watch, version, keys, operation)
        select _id operator(pg_catalog.+) (g.first operator(pg_catalog./) %3$s), %1$s, %2$s,
            t.tuples[g.first operator(pg_catalog.+) 1 : g.first operator(pg_catalog.+) %3$s]::pg_catalog.text[], %7$L
        from (select %4$s offset 0) as t,
            pg_catalog.generate_series(0, pg_catalog.cardinality(t.tuples) operator(pg_catalog.-) 1, %3$s) as g(first)
        where pg_catalog.cardinality(t.tuples) operator(pg_catalog.<=) 250000%5$s;
        if found then
            null;
        elsif not %6$s then
            return null;
        else
$q$;
    -- Conditions that are seldom true are nested, here and at the end: plpgsql prepares the whole of an expression again in
    -- every transaction.
    -- A dump of one table brings its triggers along, to a database where their number means another table. A trigger
    -- on the watched table itself is known by the table's oid, one on a partition or parent by its argument. After a
    -- restore of everything both are outdated, and misplaced() decides.
    head       constant text := $q$
declare
    _id pg_catalog.int8;
    _row pg_catalog.record;
begin
    if tg_relid operator(pg_catalog.<>) %1$s::pg_catalog.oid then
        if (tg_argv[0] operator(pg_catalog.=)
                ('%1$s:' operator(pg_catalog.||) tg_relid::pg_catalog.text)) is not true
            and unstale.misplaced(%2$s, tg_relid)
        then
            return null;
        end if;
    end if;
    _id := (pg_catalog.pg_current_wal_insert_lsn() operator(pg_catalog.-) '0/0'::pg_catalog.pg_lsn);
$q$;
    tail_of_guard constant text := $q$
        perform unstale.wake();
        return null;
    end if;
$q$;
    tail       constant text := $q$
    -- What unstale.wake() does. After the insert: unstale.want_notify() relies on it.
    if greatest(
        pg_catalog.pg_sequence_last_value('unstale.notify_wanted'::pg_catalog.regclass),
        pg_catalog.pg_sequence_last_value('unstale.wakeups_wanted'::pg_catalog.regclass)
    ) operator(pg_catalog.>) 1 then
        if pg_catalog.pg_sequence_last_value('unstale.notify_wanted'::pg_catalog.regclass)
                operator(pg_catalog.>) pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())
            and pg_catalog.current_setting('max_prepared_transactions') operator(pg_catalog.=) '0'
            and pg_catalog.pg_notification_queue_usage() operator(pg_catalog.<) 0.5
        then
            perform pg_catalog.pg_notify('unstale_wakeup', '');
        end if;
        if pg_catalog.pg_sequence_last_value('unstale.wakeups_wanted'::pg_catalog.regclass) operator(pg_catalog.>) 1 then
            if pg_catalog.pg_sequence_last_value('unstale.wakeups_wanted'::pg_catalog.regclass)
                    operator(pg_catalog.>) pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())
                and coalesce(pg_catalog.abs(
                    pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) operator(pg_catalog.*) 1000
                    operator(pg_catalog.-) pg_catalog.pg_sequence_last_value('unstale.wakeups_told'::pg_catalog.regclass)
                ) operator(pg_catalog.>=) 100, true)
            then
                perform unstale.tell();
            end if;
        end if;
    end if;
    if pg_catalog.hashint8(_id) operator(pg_catalog.%) 1000 operator(pg_catalog.=) 0 then
        perform unstale.maintain();
    end if;
    return null;
end
$q$;
    -- "Any row at all?" is asked of the transition tables, where there are some: no row, no entry.
    -- Of both, in an update: a row that moves to another partition may be refused there by a trigger, and is gone.
    any_row    constant jsonb := pg_catalog.jsonb_build_object(
        'insert', 'exists (select from new_rows)',
        'update', '(exists (select from new_rows) or exists (select from old_rows))',
        'delete', 'exists (select from old_rows)');
begin
    select x.* into strict w from unstale.numbered(watch_id) as x where x.id = watch_id;
    start := pg_catalog.format(head, w.relation::oid, w.id);
    everything := pg_catalog.format(
        '    insert into unstale.outbox (id, watch, version, keys, operation) values (_id, %s, %s, null, '
        'pg_catalog.lower(pg_catalog.left(tg_op, 1))::pg_catalog."char");', w.id, w.version);
    bodies := pg_catalog.jsonb_build_object('truncate', start || everything || tail);
    problem := whole;
    if whole is not null then
        -- These look at nothing: neither at columns nor at transition tables.
        transition := false;
        foreach operation in array '{insert,update,delete}'::text[] loop
            bodies := bodies || pg_catalog.jsonb_build_object(operation, start || everything || tail);
        end loop;
        return;
    end if;

    select
        pg_catalog.string_agg(unstale.key_expression(r.name, r.type), ', ' order by r.ordinal) as listed,
        pg_catalog.string_agg(
            pg_catalog.format('%s as k%s', unstale.key_expression(r.name, r.type), r.ordinal), ', ' order by r.ordinal
        ) as named,
        pg_catalog.min(r.label) filter (where r.name is null) as gone,
        pg_catalog.min(r.label) filter (where unstale.key_expression(r.name, r.type) is null) as unsupported,
        pg_catalog.min(r.label) filter (where r.generated = 'v') as virtual,
        pg_catalog.sum(unstale.key_bytes(r.type)) as bytes,
        pg_catalog.count(*) as width
    into keys
    from unstale.resolve(w.relation, w.key_columns, w.key_numbers) as r;

    select
        -- Postgres gathers no transition rows from foreign tables; from version 18 on it refuses to.
        not coalesce(pg_catalog.bool_or(f.kind = 'f'), false),
        pg_catalog.min(f.member) filter (where f.place = 'above'),
        pg_catalog.min(f.member) filter (where f.place = 'below' and f.member <> w.relation and not c.relispartition)
    into transition, parent, child
    from unstale.family(w.relation) as f join pg_catalog.pg_class as c on c.oid = f.member;
    if parent is not null then
        -- Through a parent, rows are seen with its columns, and those of its other children come along: as keys, they
        -- cost a miss. (A child may be keyed by a column that its parent lacks; a partition cannot.)
        select f.member into keyless
        from unstale.family(w.relation) as f, unstale.resolve(w.relation, w.key_columns, w.key_numbers) as r
        where f.place = 'above' and r.name is not null and not exists (
            select from pg_catalog.pg_attribute as a
            where a.attrelid = f.member and a.attname = r.name and a.attnum > 0 and not a.attisdropped
        )
        limit 1;
    end if;
    problem := case
        when not transition then 'a partition or child is a foreign table'
        when keyless is not null then pg_catalog.format('its parent %s has no such key column', keyless)
        when keys.gone is not null then pg_catalog.format('key column %I is gone', keys.gone)
        when keys.virtual is not null then pg_catalog.format('key column %I is a virtual generated column', keys.virtual)
        when keys.unsupported is not null then
            pg_catalog.format('key column %I has a type that is not supported', keys.unsupported)
    end;
    if problem is not null then
        foreach operation in array '{insert,update,delete}'::text[] loop
            bodies := bodies || pg_catalog.jsonb_build_object(operation, start
                || case when transition
                    then pg_catalog.format(E'    if not %s then\n        return null;\n    end if;\n', any_row ->> operation)
                    else '' end
                || everything || tail);
        end loop;
        return;
    end if;

    select
        pg_catalog.string_agg(
            pg_catalog.format('%s as p%s', unstale.match_expression(a.attname, a.atttypid), k.place), ', ' order by k.place
        ) as named,
        pg_catalog.string_agg(
            pg_catalog.format('o.p%1$s operator(pg_catalog.=) n.p%1$s', k.place), ' and ' order by k.place) as matched,
        pg_catalog.count(*) as width,
        pg_catalog.array_agg(a.attname) as names
    into pkey
    from pg_catalog.pg_index as i
    -- Its place in the key: a restored table counts its columns anew, and a body should not change by that.
    cross join pg_catalog.unnest(i.indkey[0 : i.indnkeyatts - 1]) with ordinality as k(number, place)
    join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.number
    where i.indrelid = w.relation and i.indisprimary;
    if w.columns is not null then
        select pg_catalog.min(r.label) filter (where r.name is null) as gone,
            pg_catalog.min(r.label) filter (where r.generated = 'v') as virtual
        into cols
        from unstale.resolve(w.relation, w.columns, w.column_numbers) as r;
        problem := case
            when cols.gone is not null then pg_catalog.format('filter column %I is gone', cols.gone)
            when cols.virtual is not null then
                pg_catalog.format('filter column %I is a virtual generated column', cols.virtual)
            when pkey.named is null then 'there is no primary key for the column filter'
            when parent is not null then pg_catalog.format(
                'through its parent %s come rows that its primary key does not tell apart', parent)
            when child is not null then pg_catalog.format(
                'its child %s has rows that its primary key does not tell apart', child)
        end;
        filtered := problem is null;
        -- Bytes are compared, not text: that of a float, a date or an interval depends on the writer's settings, and
        -- 1.0 = 1.00. Equal bytes are equal values, so no change is missed.
        select pg_catalog.string_agg(pg_catalog.format('r.%I', n.name), ', ' order by n.name) into image
        from (
            select r.name from unstale.resolve(w.relation, w.key_columns || w.columns, w.key_numbers || w.column_numbers) as r
            where r.name is not null
            union
            select p.name from pg_catalog.unnest(pkey.names) as p(name)
        ) as n;
    end if;

    select
        pg_catalog.string_agg('d.k' || n, ', ' order by n), pg_catalog.string_agg('c.k' || n, ', ' order by n)
    into picked, aggregated
    from pg_catalog.generate_series(1, keys.width) as n;
    if keys.width > 1 then
        aggregated := pg_catalog.format('array[%s]', aggregated);
        tuple := pg_catalog.format('array[%s]', keys.listed);
    else
        tuple := keys.listed;
    end if;

    chunk_rows := greatest(50, least(500, 7000 / keys.bytes));
    select pg_catalog.format('r.%I::pg_catalog.%I', r.name, b.typname) into element
    from unstale.resolve(w.relation, w.key_columns, w.key_numbers) as r
    join pg_catalog.pg_type as b on b.oid = unstale.base_type(r.type)
    join pg_catalog.pg_index as i on i.indrelid = w.relation and i.indisprimary
    where keys.width = 1 and i.indnkeyatts = 1 and i.indkey[0] = r.number
        and b.oid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype);

    if not unstale.follows_ddl() then
        select pg_catalog.format(
$q$    if (
        select pg_catalog.count(*) from pg_catalog.pg_attribute as a
        where a.attrelid operator(pg_catalog.=) tg_relid and not a.attisdropped and (%s)
    ) operator(pg_catalog.<>) %s%s then
$q$,
            pg_catalog.string_agg(pg_catalog.format(
                'a.attname operator(pg_catalog.=) %L::pg_catalog.name and a.atttypid operator(pg_catalog.=) %s::pg_catalog.oid',
                c.attname, c.atttypid), ' or ' order by c.attnum),
            pg_catalog.count(*),
            case when filtered then pg_catalog.format(
                ' or not exists (select from pg_catalog.pg_index as i where i.indrelid operator(pg_catalog.=) tg_relid '
                'and i.indisprimary and i.indnkeyatts operator(pg_catalog.=) %s)', pkey.width) else '' end
            ) || everything || tail_of_guard
        into guard
        from pg_catalog.pg_attribute as c
        where c.attrelid = w.relation and (
            c.attname in (select r.name from unstale.resolve(w.relation, w.key_columns, w.key_numbers) as r)
            or filtered and (
                c.attname in (select r.name from unstale.resolve(w.relation, w.columns, w.column_numbers) as r)
                or c.attname = any (pkey.names)
            )
        );
    end if;

    foreach operation in array '{insert,update,delete}'::text[] loop
        letter := pg_catalog.left(operation, 1);
        changed_rows := case operation when 'delete' then 'old_rows' else 'new_rows' end;
        if operation <> 'update' then
            distinct_tuples := pg_catalog.format('select distinct %s from %s as r', keys.named, changed_rows);
            single := pg_catalog.format(
$q$    insert into unstale.outbox (id, watch, version, keys, operation)
    select _id, %1$s, %2$s, t.tuples, %6$L
    from (select array(select %3$s from %5$s as r limit 2) as tuples offset 0) as t
    where pg_catalog.cardinality(t.tuples) operator(pg_catalog.=) %4$s;
    if not found then
$q$,            w.id, w.version, tuple, keys.width, changed_rows, letter);
        elsif not filtered then
            distinct_tuples := pg_catalog.format(
                'select %1$s from old_rows as r union select %1$s from new_rows as r', keys.named);
            single := pg_catalog.format(
$q$    insert into unstale.outbox (id, watch, version, keys, operation)
    select _id, %1$s, %2$s,
        case when t.old operator(pg_catalog.=) t.new then t.new else t.old operator(pg_catalog.||) t.new end, 'u'
    from (
        select array(select %3$s from old_rows as r limit 2) as old, array(select %3$s from new_rows as r limit 2) as new
        offset 0
    ) as t
    where pg_catalog.cardinality(t.old) operator(pg_catalog.=) %4$s
        and pg_catalog.cardinality(t.new) operator(pg_catalog.=) %4$s;
    if not found then
$q$,            w.id, w.version, tuple, keys.width);
        else
            -- A full join, because a nested loop cannot carry it out: the plan of a statement of two rows is kept.
            select pg_catalog.format(
$q$select distinct %1$s
            from (%2$s) as o full join (%3$s) as n on %4$s
            cross join lateral (select %5$s where o.there union all select %6$s where n.there) as d
            where o.there is null or n.there is null or not (o.image operator(pg_catalog.*=) n.image)$q$,
                picked, pg_catalog.format(side, keys.named, pkey.named, image, 'old_rows'),
                pg_catalog.format(side, keys.named, pkey.named, image, 'new_rows'), pkey.matched,
                pg_catalog.string_agg('o.k' || k, ', ' order by k), pg_catalog.string_agg('n.k' || k, ', ' order by k))
            into distinct_tuples from pg_catalog.generate_series(1, keys.width) as k;
            single := pg_catalog.format(
$q$    select t.* into _row
    from (
        select
            array(select %1$s from old_rows as r limit 2) as old, array(select %1$s from new_rows as r limit 2) as new,
            (select row(%3$s) from old_rows as r limit 1) operator(pg_catalog.*=)
                (select row(%3$s) from new_rows as r limit 1) as same
    ) as t;
    if pg_catalog.cardinality(_row.old) operator(pg_catalog.=) 0
        and pg_catalog.cardinality(_row.new) operator(pg_catalog.=) 0
    then
        return null;
    elsif pg_catalog.cardinality(_row.old) operator(pg_catalog.=) %2$s
        and pg_catalog.cardinality(_row.new) operator(pg_catalog.=) %2$s
    then
        if _row.same then
            return null;
        end if;
        insert into unstale.outbox (id, watch, version, keys, operation) values (_id, %4$s, %5$s,
            case when _row.old operator(pg_catalog.=) _row.new then _row.new
                else _row.old operator(pg_catalog.||) _row.new end, 'u');
    else
$q$,            tuple, keys.width, image, w.id, w.version);
        end if;
        sliced := case when element is null or operation = 'update' and filtered then '' else
            pg_catalog.format(slices, w.id, w.version, chunk_rows,
                pg_catalog.format('array(select %s from %s as r limit 250001) as tuples', element, changed_rows)
                || case when operation = 'update' then
                    pg_catalog.format(', array(select %s from old_rows as r limit 250001) as old', element) else '' end,
                case when operation = 'update' then ' and t.old operator(pg_catalog.=) t.tuples' else '' end,
                any_row ->> operation, letter)
        end;
        bodies := bodies || pg_catalog.jsonb_build_object(operation, start || guard || single || sliced || pg_catalog.format(
$q$        insert into unstale.outbox (id, watch, version, keys, operation)
        select _id operator(pg_catalog.+) c.chunk, %1$s, %2$s, pg_catalog.array_agg(%3$s), %6$L
        from (
            select d.*, (pg_catalog.row_number() over () operator(pg_catalog.-) 1) operator(pg_catalog./) %4$s as chunk
            from (%5$s) as d
        ) as c
        group by c.chunk;
        if not found then
            return null;
        end if;
$q$,        w.id, w.version, aggregated, chunk_rows, distinct_tuples, letter)
            || case when sliced <> '' then E'        end if;\n' else '' end || E'    end if;\n' || tail);
    end loop;
end
$$;
comment on function unstale.describe(integer, text) is
    'The bodies of the captures that the table needs as it is now; whole: why they write whole-table entries.';

revoke all on all functions in schema unstale from public;
