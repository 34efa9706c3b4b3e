-- Reading the outbox: one call returns the new entries and the position that contains them.
--
-- What:   unstale.read() and what it is made of; unstale.end_old_leaders().
-- Why:    entries, position, horizon and LSN must belong together: one snapshot, one value.
-- Locks:  none. Re-running replaces the functions.
-- Undo:   drop function unstale.read, unstale.cut, unstale.new_ranges, unstale.end_old_leaders;
--         drop type unstale.batch, unstale.entry;

do $$
begin
    if pg_catalog.to_regtype('unstale.entry') is null then
        create type unstale.entry as (watch integer, version integer, keys text[]);
    end if;
    if pg_catalog.to_regtype('unstale.batch') is null then
        create type unstale.batch as (
            database     text,
            snapshot     pg_snapshot,
            position     pg_snapshot,
            more         boolean,
            last_xid     xid8,
            last_id      bigint,
            insert_lsn   pg_lsn,
            flushed_lsn  pg_lsn,
            covered      boolean,
            current_xmax xid8,
            entries      unstale.entry[],
            xids         xid8[],
            operations   text
        );
    end if;
    if not exists (
        select from pg_catalog.pg_attribute as a join pg_catalog.pg_type as t on t.typrelid = a.attrelid
        where t.oid = 'unstale.batch'::regtype and a.attname = 'xids'
    ) then
        -- A database that was migrated before the type had these attributes.
        alter type unstale.batch add attribute xids xid8[], add attribute operations text;
    end if;
end
$$;
comment on type unstale.entry is 'One outbox entry. keys: k key columns times n rows, row after row; null: everything.';
comment on type unstale.batch is
    'What unstale.read() returns. xids and operations: of each entry; operations has one character each, see unstale.outbox.';

create or replace function unstale.cut(whole pg_snapshot, at xid8, held xid8[] default '{}') returns pg_snapshot
language sql immutable parallel safe set search_path = ''
as $$
    -- The position that contains what `whole` contains below `at`, except the transactions in `held`.
    select (coalesce(pg_catalog.min(x.n), at::text::bigint) || ':' || at::text || ':'
            || coalesce(pg_catalog.string_agg(x.n::text, ',' order by x.n), ''))::pg_snapshot
    from (
        select s.xip::text::bigint as n from pg_catalog.pg_snapshot_xip(whole) as s(xip) where s.xip < at
        union
        select h.xid::text::bigint from pg_catalog.unnest(held) as h(xid) where h.xid < at
    ) as x
$$;
comment on function unstale.cut(pg_snapshot, xid8, xid8[]) is 'A snapshot without anything at or above one xid.';

create or replace function unstale.new_ranges(after pg_snapshot, upto pg_snapshot)
returns table (low xid8, high xid8)
language sql immutable set search_path = ''
as $$
    -- The xids that are in `upto` and not in `after`, as ranges [low, high) in ascending order. Transactions that are
    -- still open are left out here, not filtered later: however much they have written, it costs a read nothing.
    with open_at as (
        select s.xip::text::bigint as n from pg_catalog.pg_snapshot_xip(upto) as s(xip)
        where s.xip >= pg_catalog.pg_snapshot_xmax(after)
    ), bounds as (
        select pg_catalog.pg_snapshot_xmax(after)::text::bigint as low
        union all
        select o.n + 1 from open_at as o
    ), ranges as (
        select b.low, pg_catalog.lead(b.low - 1, 1, pg_catalog.pg_snapshot_xmax(upto)::text::bigint)
            over (order by b.low) as high
        from bounds as b
        union all
        select s.xip::text::bigint, s.xip::text::bigint + 1
        from pg_catalog.pg_snapshot_xip(after) as s(xip)
        where pg_catalog.pg_visible_in_snapshot(s.xip, upto)
    )
    select r.low::text::xid8, r.high::text::xid8 from ranges as r where r.low < r.high order by r.low
$$;
comment on function unstale.new_ranges(pg_snapshot, pg_snapshot) is 'What is new between two snapshots, as ranges of xids.';

create or replace function unstale.covers(after pg_snapshot, horizon pg_snapshot) returns boolean
language sql immutable parallel safe set search_path = ''
as $$
    select pg_catalog.pg_snapshot_xmax(after) >= pg_catalog.pg_snapshot_xmax(horizon) and not exists (
        select from pg_catalog.pg_snapshot_xip(after) as s(xip)
        where pg_catalog.pg_visible_in_snapshot(s.xip, horizon)
    )
$$;
comment on function unstale.covers(pg_snapshot, pg_snapshot) is 'Whether a position contains all that may be purged.';

create or replace function unstale.read(
    after        pg_snapshot,
    upto         pg_snapshot default null,
    after_xid    xid8    default null,
    after_id     bigint  default null,
    max_entries  integer default 5000,
    max_elements integer default 100000
) returns unstale.batch
language plpgsql stable security definer
set search_path = ''
-- The outbox grows faster than its statistics: leave the planner no choice but the range on (xid, id).
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
    -- `stable`: every query below runs in the caller's snapshot, this one.
    snapshot_now constant pg_snapshot := pg_catalog.pg_current_snapshot();
    smallest_id  constant bigint := -9223372036854775808;
    horizon      pg_snapshot;
    purged       pg_snapshot[];
    result       unstale.batch;
    span         record;
    part         record;
    from_xid     xid8;
    from_id      bigint;
    step         integer;
    room_entries  integer := greatest(max_entries, 1);
    room_elements integer := greatest(max_elements, 1);
    full_page    boolean := false;
    next_xid     xid8;
    frontier     xid8;
begin
    result.current_xmax := pg_catalog.pg_snapshot_xmax(snapshot_now);
    result.snapshot := coalesce(upto, snapshot_now);
    result.more := false;
    result.last_xid := after_xid;
    result.last_id := after_id;
    result.covered := true;
    result.entries := '{}';
    result.xids := '{}';
    result.operations := '';

    -- A horizon that came with a dump from another server is about other transactions.
    select h.snapshot into horizon
    from unstale.horizon as h
    join pg_catalog.pg_control_system() as c on c.system_identifier = h.system_identifier;
    if horizon is not null then
        purged := array(select p.snapshot from unstale.purged as p);
    end if;
    horizon := coalesce(horizon, '1:1:');

    if after is null then
        -- No position: the caller drops every key after this read, so an older position is safe and a newer one is
        -- not. A transaction that was rolled back is not flushed; after a crash Postgres gives its xid to another
        -- one. So nothing above the highest xid that is known to be committed may be inside, not even xmin - 1.
        select greatest(
            pg_catalog.pg_snapshot_xmax(horizon),
            (select pg_catalog.pg_snapshot_xmax(p.snapshot) from pg_catalog.unnest(purged) as p(snapshot)
             order by 1 desc limit 1),
            (select (o.xid::text::bigint + 1)::text::xid8 from unstale.outbox as o
             where o.xid < pg_catalog.pg_snapshot_xmax(snapshot_now)
             order by o.xid desc, o.id desc limit 1)
        ) into frontier;
        result.snapshot := snapshot_now;
        result.position := unstale.cut(snapshot_now, frontier);
        result.last_xid := null;
        result.last_id := null;
        result.insert_lsn := pg_catalog.pg_current_wal_insert_lsn();
        result.flushed_lsn := pg_catalog.pg_current_wal_flush_lsn();
        result.database := unstale.database();
        return result;
    end if;

    result.position := after;
    result.covered := unstale.covers(after, horizon) and not exists (
        select from pg_catalog.unnest(purged) as p(snapshot) where not unstale.covers(after, p.snapshot)
    );
    -- The second and third: the database went back in time. The caller sees that in the fields.
    if not result.covered
        or pg_catalog.pg_snapshot_xmax(after) > pg_catalog.pg_snapshot_xmax(snapshot_now)
        or pg_catalog.pg_snapshot_xmax(result.snapshot) > pg_catalog.pg_snapshot_xmax(snapshot_now)
    then
        result.insert_lsn := pg_catalog.pg_current_wal_insert_lsn();
        result.flushed_lsn := pg_catalog.pg_current_wal_flush_lsn();
        result.database := unstale.database();
        return result;
    end if;

    <<ranges>>
    for span in
        select r.low, r.high from unstale.new_ranges(after, result.snapshot) as r
        where after_xid is null or r.high > after_xid
    loop
        if full_page then
            -- Is there anything after this page?
            select o.xid into next_xid from unstale.outbox as o
            where o.xid >= span.low and o.xid < span.high
            order by o.xid, o.id limit 1;
            exit ranges when next_xid is not null;
            continue ranges;
        end if;
        from_xid := span.low;
        from_id := smallest_id;
        if after_xid >= span.low then
            from_xid := after_xid;
            from_id := after_id;
        end if;
        step := 64;
        loop
            step := least(step, room_entries);
            select
                pg_catalog.array_agg((e.watch, e.version, e.keys)::unstale.entry order by e.xid, e.id) as entries,
                pg_catalog.array_agg(e.xid order by e.xid, e.id) as xids,
                pg_catalog.array_agg(e.id order by e.xid, e.id) as ids,
                pg_catalog.string_agg(coalesce(e.operation::text, '-'), '' order by e.xid, e.id) as operations,
                coalesce(pg_catalog.sum(e.elements), 0)::integer as elements,
                pg_catalog.count(*)::integer as taken,
                coalesce(pg_catalog.max(e.found), 0)::integer as found
            into part
            from (
                select
                    n.*,
                    pg_catalog.sum(n.elements) over (order by n.xid, n.id rows unbounded preceding) as running,
                    pg_catalog.count(*) over () as found
                from (
                    select
                        o.xid, o.id, o.watch, o.version, o.operation,
                        coalesce(pg_catalog.cardinality(o.keys), 1) as elements,
                        case when pg_catalog.array_ndims(o.keys) > 1 then array(select pg_catalog.unnest(o.keys))
                            else o.keys end as keys
                    from unstale.outbox as o
                    where (o.xid, o.id) > (from_xid, from_id) and o.xid < span.high
                    order by o.xid, o.id
                    limit step
                ) as n
            ) as e
            -- An entry is taken while there is room before it, so a page holds at least one.
            where e.running - e.elements < room_elements;
            exit when part.taken = 0;

            result.entries := result.entries || part.entries;
            result.xids := result.xids || part.xids;
            result.operations := result.operations || part.operations;
            from_xid := part.xids[part.taken];
            from_id := part.ids[part.taken];
            result.last_xid := from_xid;
            result.last_id := from_id;
            room_entries := room_entries - part.taken;
            room_elements := room_elements - part.elements;
            if room_entries <= 0 or room_elements <= 0 then
                full_page := true;
                select o.xid into next_xid from unstale.outbox as o
                where (o.xid, o.id) > (from_xid, from_id) and o.xid < span.high
                order by o.xid, o.id limit 1;
                exit ranges when next_xid is not null;
                continue ranges;
            end if;
            exit when part.found < step;
            -- As many as will probably fit: cardinality() has to fetch an entry to know its size.
            step := least(1024, 1 + room_elements / greatest(1, part.elements / part.taken));
        end loop;
    end loop ranges;
    result.more := next_xid is not null;

    -- Everything below `frontier` has been delivered. It never lies above a committed transaction (see above).
    frontier := case
        when result.last_xid is null then pg_catalog.pg_snapshot_xmax(after)
        when result.more and next_xid = result.last_xid then result.last_xid
        else (result.last_xid::text::bigint + 1)::text::xid8
    end;
    if frontier >= pg_catalog.pg_snapshot_xmax(after) then
        result.position := unstale.cut(result.snapshot, frontier);
    elsif not result.more then
        result.position := unstale.cut(result.snapshot, pg_catalog.pg_snapshot_xmax(after));
    else
        -- Still among the transactions that were open in `after`: hold back those not delivered yet.
        result.position := unstale.cut(
            result.snapshot,
            pg_catalog.pg_snapshot_xmax(after),
            array(select s.xip from pg_catalog.pg_snapshot_xip(after) as s(xip) where s.xip >= frontier)
        );
    end if;
    -- After the entries: a loader that waits for this LSN sees every one of them.
    result.insert_lsn := pg_catalog.pg_current_wal_insert_lsn();
    result.flushed_lsn := pg_catalog.pg_current_wal_flush_lsn();
    -- Likewise after the entries: a dump restored while this call waited for a lock may have replaced the outbox, and
    -- an old name would then vouch for the new one's entries.
    result.database := unstale.database();
    return result;
end
$$;
comment on function unstale.read(pg_snapshot, pg_snapshot, xid8, bigint, integer, integer) is
    'Entries that are in `upto` (now) and not in `after`, in (xid, id) order after the cursor, and the next position.';

create or replace function unstale.end_old_leaders(consumer text, fence bigint) returns integer
language sql volatile security invoker set search_path = ''
as $$
    -- Sessions of one's own role need no privilege to end. Another consumer (a second region, a staging Redis) reads
    -- the same outbox with fences of its own: its sessions are left alone. The number is bounded so that the cast
    -- cannot fail.
    select pg_catalog.count(*) filter (where pg_catalog.pg_terminate_backend(a.pid))::integer
    from pg_catalog.pg_stat_activity as a
    where a.datname = pg_catalog.current_database()
        and a.usename = session_user
        and a.pid <> pg_catalog.pg_backend_pid()
        and case when a.application_name ~ '^unstale-worker:[0-9a-f]{8}:[0-9]{1,18}$'
            then pg_catalog.split_part(a.application_name, ':', 2) = consumer
                and pg_catalog.split_part(a.application_name, ':', 3)::bigint < fence end
$$;
comment on function unstale.end_old_leaders(text, bigint) is
    'Ends the sessions of a consumer''s leaders with a lower fence; returns how many.';

revoke all on function
    unstale.cut(pg_snapshot, xid8, xid8[]),
    unstale.new_ranges(pg_snapshot, pg_snapshot),
    unstale.covers(pg_snapshot, pg_snapshot),
    unstale.read(pg_snapshot, pg_snapshot, xid8, bigint, integer, integer),
    unstale.end_old_leaders(text, bigint)
from public;
grant execute on function
    unstale.read(pg_snapshot, pg_snapshot, xid8, bigint, integer, integer),
    unstale.end_old_leaders(text, bigint)
to unstale_worker;
