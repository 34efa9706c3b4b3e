-- The private schema `unstale`: the outbox, the watches and the horizon, and the role of the worker.
--
-- What:   tables that captures write and the worker reads; nothing here touches a table of yours.
-- Why:    a change is written to `unstale.outbox` in the transaction that makes it, so none is lost.
-- Locks:  none on existing tables. Re-running changes nothing.
-- Undo:   see "Taking it out" in docs/operations.md: select unstale.unwatch(relation) from unstale.watched;
--         drop what public has of it (unstale_rpc, unstale_wakeups); drop schema unstale cascade;
--         (drop event trigger unstale_ddl, unstale_drop first, where they exist); drop owned by unstale_worker;
--         drop role unstale_worker.

do $$
begin
    -- Ids of outbox entries are WAL positions. Under wal_level = minimal a table created in the same transaction
    -- writes no WAL, so two entries could get the same id.
    if pg_catalog.current_setting('wal_level') = 'minimal' then
        raise exception 'unstale needs wal_level = replica or logical, and this server runs with minimal'
            using errcode = 'UN011', hint = 'Set wal_level = replica in postgresql.conf and restart the server.';
    end if;
end
$$;

create schema if not exists unstale;
comment on schema unstale is 'Change capture for cache invalidation. Private: only functions are an interface.';
revoke all on schema unstale from public;

-- The worker signs in with this role. It gets no password here: `alter role unstale_worker password '...'`.
do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'unstale_worker') then
        create role unstale_worker login nosuperuser nocreatedb nocreaterole noinherit noreplication nobypassrls;
    end if;
exception
    -- Roles belong to the whole server: another database may be installing at this moment.
    when duplicate_object or unique_violation then null;
end
$$;
grant usage on schema unstale to unstale_worker;

create table if not exists unstale.outbox (
    xid     xid8    not null default pg_catalog.pg_current_xact_id(),
    -- Not a sequence: nextval() in a capture would change what the writer's own lastval() returns. Each insert
    -- writes WAL, so within a transaction this grows and never repeats, which is all an id is needed for.
    id      bigint  not null default (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint,
    watch   integer not null,
    version integer not null,
    keys    text[],
    operation "char",
    constraint outbox_pkey primary key (xid, id)
) with (
    -- Entries are sized to fit a page uncompressed (see unstale.chunk_rows), so do not compress them.
    toast_tuple_target = 8160,
    -- Rows come and go in order: vacuum early, by number of rows rather than by share.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000
);
do $$
begin
    if not exists (
        select from pg_catalog.pg_attribute as a
        where a.attrelid = 'unstale.outbox'::regclass and a.attname = 'operation' and not a.attisdropped
    ) then
        -- A database that was migrated before there was this column.
        alter table unstale.outbox add column operation "char";
    end if;
end
$$;
comment on table unstale.outbox is
    'Changes of watched tables, written by captures. Read with unstale.read(), purged by unstale.purge().';
comment on column unstale.outbox.xid is 'The transaction that made the change.';
comment on column unstale.outbox.id is 'Order of the entries within one transaction.';
comment on column unstale.outbox.keys is
    'Distinct tuples of the key columns'' values, row after row; null: anything in the table may have changed.';

comment on column unstale.outbox.watch is
    'The watch whose capture wrote the entry; 0: the only key is an annotation of the transaction, see unstale.because().';
comment on column unstale.outbox.operation is
    'i, u, d or t: insert, update, delete or truncate; null: DDL, or a capture of an earlier version wrote the entry.';

create table if not exists unstale.watched (
    id            integer  not null generated always as identity,
    relation      regclass not null,
    version       integer  not null default 1,
    state         text     not null default 'watched',
    table_schema  text     not null,
    table_name    text     not null,
    key_columns   text[]   not null,
    key_numbers   smallint[] not null,
    columns       text[],
    column_numbers smallint[],
    numbered      oid,
    problem       text,
    bodies        jsonb,
    changed_at    timestamptz not null default pg_catalog.clock_timestamp(),
    constraint watched_pkey primary key (id),
    constraint watched_relation_key unique (relation),
    constraint watched_state_check check (state in ('watched', 'unwatched', 'gone'))
);
comment on table unstale.watched is 'One row per table that is or was watched. Change it with unstale.watch() only.';
comment on column unstale.watched.table_name is 'The name at the time of unstale.watch(): what rules call the table.';
comment on column unstale.watched.key_numbers is 'attnum of each key column: a renamed column keeps feeding its rule.';
do $$
begin
    -- Only where it is missing: the command takes an exclusive lock.
    if not exists (
        select from pg_catalog.pg_attribute as a
        where a.attrelid = 'unstale.watched'::regclass and a.attname = 'bodies' and not a.attisdropped
    ) then
        alter table unstale.watched add column bodies jsonb;
    end if;
    if not exists (
        select from pg_catalog.pg_attribute as a
        where a.attrelid = 'unstale.watched'::regclass and a.attname = 'numbered' and not a.attisdropped
    ) then
        alter table unstale.watched add column numbered oid;
    end if;
end
$$;
comment on column unstale.watched.numbered is
    'The table whose columns the numbers count, and whose captures these are: after a restore it is another one.';
comment on column unstale.watched.bodies is 'MD5 of the body of each capture, by operation: another body was not written by unstale.';
comment on column unstale.watched.problem is 'Why the captures write whole-table entries, or lack the column filter.';

create table if not exists unstale.versions (
    watch        integer not null,
    version      integer not null,
    table_schema text    not null,
    table_name   text    not null,
    key_columns  text[]  not null,
    constraint versions_pkey primary key (watch, version)
);
comment on table unstale.versions is 'What each (watch, version) meant. Never deleted: older entries are decoded by it.';

create table if not exists unstale.captured (
    watch    integer  not null,
    relation regclass not null,
    carries  boolean  not null default true,
    constraint captured_pkey primary key (watch, relation)
);
comment on table unstale.captured is 'The tables whose DDL concerns a watch: see unstale.family().';
do $$
begin
    if not exists (
        select from pg_catalog.pg_attribute as a
        where a.attrelid = 'unstale.captured'::regclass and a.attname = 'carries' and not a.attisdropped
    ) then
        -- A database that was migrated before there was this column.
        alter table unstale.captured add column carries boolean not null default true;
    end if;
end
$$;
comment on column unstale.captured.carries is 'True if the table carries the captures of the watch.';
create index if not exists captured_relation_idx on unstale.captured (relation);

create table if not exists unstale.horizon (
    only_row boolean not null default true,
    system_identifier bigint not null,
    snapshot pg_snapshot not null,
    retention interval not null default '1 hour',
    max_outbox_rows bigint not null default 10000000,
    constraint horizon_pkey primary key (only_row),
    constraint horizon_only_row_check check (only_row)
);
comment on table unstale.horizon is
    'Entries of transactions visible in this snapshot may have been purged: a position must contain all of them.';
do $$
begin
    if not exists (
        select from pg_catalog.pg_attribute as a
        where a.attrelid = 'unstale.horizon'::regclass and a.attname = 'walked' and not a.attisdropped
    ) then
        alter table unstale.horizon add column walked pg_snapshot;
    end if;
end
$$;
comment on column unstale.horizon.walked is
    'Nothing is left in the outbox of transactions in this snapshot: where the next purge begins. Null: the horizon.';
insert into unstale.horizon (system_identifier, snapshot)
select c.system_identifier, '1:1:' from pg_catalog.pg_control_system() as c
on conflict do nothing;

create table if not exists unstale.purged (
    xid      xid8        not null default pg_catalog.pg_current_xact_id(),
    snapshot pg_snapshot not null,
    constraint purged_pkey primary key (xid)
);
comment on table unstale.purged is
    'What captures have purged since the horizon was last moved, a row for each transaction: a position must contain it, too.';

create table if not exists unstale.snapshots (
    taken_at timestamptz not null,
    snapshot pg_snapshot not null,
    constraint snapshots_pkey primary key (taken_at)
);
comment on table unstale.snapshots is 'One snapshot a minute at most: what was committed when, for the purge.';

do $$
declare
    private_table text;
begin
    -- Only where it is off: the command takes an exclusive lock that would stop writers for a moment.
    for private_table in
        select c.relname from pg_catalog.pg_class as c
        where c.relnamespace = 'unstale'::regnamespace and c.relkind = 'r' and not c.relrowsecurity
    loop
        execute pg_catalog.format('alter table unstale.%I enable row level security', private_table);
    end loop;
end
$$;

-- A view, not a policy: the worker runs with row_security = off, which turns a filtered read into an error.
create or replace view unstale.watch_versions with (security_barrier = true) as
select
    v.watch,
    v.version,
    v.table_schema,
    v.table_name,
    v.key_columns,
    w.state = 'watched' and w.version = v.version as "current",
    w.columns,
    array(
        select coalesce((
            select b.typname::text
            from pg_catalog.pg_attribute as a
            join pg_catalog.pg_type as t on t.oid = a.atttypid
            join pg_catalog.pg_type as b on b.oid = case t.typtype when 'd' then t.typbasetype else t.oid end
            where a.attrelid = ( -- to_regclass() would need usage on the schema
                    select c.oid from pg_catalog.pg_class as c
                    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
                    where n.nspname = v.table_schema and c.relname = v.table_name
                )
                and a.attname = k.name and a.attnum > 0 and not a.attisdropped
                and b.typnamespace = 'pg_catalog'::pg_catalog.regnamespace
        ), '')
        from pg_catalog.unnest(v.key_columns) with ordinality as k(name, place) order by k.place
    ) as key_types
from unstale.versions as v
join unstale.watched as w on w.id = v.watch;
comment on view unstale.watch_versions is 'How to decode entries: the key columns of each (watch, version), in order.';
comment on column unstale.watch_versions.columns is 'What the current version''s captures compare; null: they report every change.';
comment on column unstale.watch_versions.key_types is
    'The built-in types of the key columns now; empty text for any other type, and for a column that is gone.';
revoke all on unstale.watch_versions from public;
grant select on unstale.watch_versions to unstale_worker;

create or replace function unstale.database() returns text
language plpgsql stable security definer set search_path = ''
as $$
declare
    file constant text := pg_catalog.pg_relation_filepath(pg_catalog.to_regclass('unstale.outbox'));
begin
    -- The timeline of the WAL being written now: pg_control_checkpoint() still tells the old one after a promotion.
    -- The path of the outbox's file ends with the database's oid and the file's number. Both are found by name at each
    -- call, so a session that stays connected while a dump is restored sees the new ones. The number is compared, not
    -- the table's oid, because a TRUNCATE of the outbox takes entries away that nobody may have read.
    -- core/unstale/reading/replica_ready.sql asks a standby for the same four.
    return (pg_catalog.pg_control_system()).system_identifier || ':'
        || ('x' || pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8))::bit(32)::bigint
        || ':' || pg_catalog.split_part(file, '/', -2) || ':' || pg_catalog.split_part(file, '/', -1);
end
$$;
comment on function unstale.database() is
    'server:timeline:database:outbox, as system identifier, timeline, oid and file number. Another value means another '
    'history of the database: positions of the old one do not count.';

create or replace function unstale.token() returns text
language sql volatile security definer set search_path = ''
as $$
    -- The LSN tells the transaction from a later one that gets its number after a crash.
    select unstale.database() || ':' || pg_catalog.pg_current_xact_id() || ':' || pg_catalog.pg_current_wal_insert_lsn()
$$;
comment on function unstale.token() is
    'Call it in the writing transaction; after the commit, cache.wait_for(token) waits until the change is applied.';

create or replace function unstale.because(annotation jsonb) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
    text_of text := annotation::text;
begin
    if pg_catalog.jsonb_typeof(annotation) is distinct from 'object' then
        raise exception 'unstale.because() takes a JSON object, not %', coalesce(pg_catalog.left(text_of, 40), 'null')
            using errcode = 'invalid_parameter_value', hint = 'Write unstale.because(''{"request": "r-17"}'').';
    end if;
    if pg_catalog.octet_length(text_of) > 1024 then
        -- A long value must not make the transaction fail that it describes.
        raise warning 'unstale.because(): an annotation has at most 1024 bytes, and this one of % is left out',
            pg_catalog.octet_length(text_of);
        text_of := pg_catalog.jsonb_build_object('left out', pg_catalog.octet_length(text_of) || ' bytes')::text;
    end if;
    -- An id far below those of captures: a read delivers it before the changes of its transaction.
    insert into unstale.outbox (id, watch, version, keys)
    values ((pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint - 4611686018427387904, 0, 0, array[text_of]);
end
$$;
comment on function unstale.because(jsonb) is
    'Call it in the writing transaction: `unstale why` shows the annotation with each key that the transaction removes.';

revoke all on function unstale.database(), unstale.token(), unstale.because(jsonb) from public;
grant execute on function unstale.database(), unstale.token() to unstale_worker;
do $$
begin
    -- Servers that write through the API with the secret key may ask for a token.
    if exists (select from pg_catalog.pg_roles where rolname = 'service_role') then
        grant usage on schema unstale to service_role;
        grant execute on function unstale.token(), unstale.because(jsonb) to service_role;
    end if;
end
$$;
