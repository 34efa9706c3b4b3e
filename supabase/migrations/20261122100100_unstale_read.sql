-- Reading the outbox: one call returns the new entries and the position that contains them.
--
-- What:   unstale.read() and what it is made of; unstale.end_old_leaders().
-- Why:    entries, position, horizon and LSN must belong together: one snapshot, one value.
-- Speed:  a worker calls this for every change or two. The helpers are in plpgsql because a session keeps the plans of
--         that, while functions in SQL are planned anew in every transaction before Postgres 18.
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
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
    -- The position that contains what `whole` contains below `at`, except the transactions in `held`.
    return (
    select (coalesce(pg_catalog.min(x.n), at::text::bigint) || ':' || at::text || ':'
            || coalesce(pg_catalog.string_agg(x.n::text, ',' order by x.n), ''))::pg_snapshot
    from (
        select s.xip::text::bigint as n from pg_catalog.pg_snapshot_xip(whole) as s(xip) where s.xip < at
        union
        select h.xid::text::bigint from pg_catalog.unnest(held) as h(xid) where h.xid < at
    ) as x
    );
end
$$;
comment on function unstale.cut(pg_snapshot, xid8, xid8[]) is 'A snapshot without anything at or above one xid.';

create or replace function unstale.new_ranges(after pg_snapshot, upto pg_snapshot)
returns table (low xid8, high xid8)
language plpgsql immutable set search_path = ''
as $$
begin
    -- The xids that are in `upto` and not in `after`, as ranges [low, high) in ascending order. Transactions that are
    -- still open are left out here, not filtered later: however much they have written, it costs a read nothing.
    return query
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
    select r.low::text::xid8, r.high::text::xid8 from ranges as r where r.low < r.high order by r.low;
end
$$;
comment on function unstale.new_ranges(pg_snapshot, pg_snapshot) is 'What is new between two snapshots, as ranges of xids.';

create or replace function unstale.covers(after pg_snapshot, horizon pg_snapshot) returns boolean
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
    return pg_catalog.pg_snapshot_xmax(after) >= pg_catalog.pg_snapshot_xmax(horizon) and not exists (
        select from pg_catalog.pg_snapshot_xip(after) as s(xip)
        where pg_catalog.pg_visible_in_snapshot(s.xip, horizon)
    );
end
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
-- Planned once: with the ranges at hand a plan looks cheaper, and making it takes as long as the read.
set plan_cache_mode = force_generic_plan
as $$
declare
    -- `stable`: every query below runs in the caller's snapshot, this one.
    snapshot_now constant pg_snapshot := pg_catalog.pg_current_snapshot();
    xmax_now     constant xid8 := pg_catalog.pg_snapshot_xmax(snapshot_now);
    after_xmin   constant xid8 := pg_catalog.pg_snapshot_xmin(after);
    after_xmax   constant xid8 := pg_catalog.pg_snapshot_xmax(after);
    smallest_id  constant bigint := -9223372036854775808;
    server       constant bigint := (pg_catalog.pg_control_system()).system_identifier;
    result       unstale.batch;
    one          record;
    lows         xid8[];
    highs        xid8[];
    entries      unstale.entry[] := '{}';
    xids         xid8[] := '{}';
    room_entries  integer := greatest(max_entries, 1);
    room_elements integer := greatest(max_elements, 1);
    next_xid     xid8;
    frontier     xid8;
begin
    result.current_xmax := xmax_now;
    result.snapshot := coalesce(upto, snapshot_now);
    result.more := false;
    result.last_xid := after_xid;
    result.last_id := after_id;
    result.covered := true;
    result.entries := '{}';
    result.xids := '{}';
    result.operations := '';

    if after is null then
        -- No position: the caller drops every key after this read, so an older position is safe and a newer one is
        -- not. A transaction that was rolled back is not flushed; after a crash Postgres gives its xid to another
        -- one. So nothing above the highest xid that is known to be committed may be inside, not even xmin - 1.
        select greatest(
            '1'::xid8,
            -- A horizon that came with a dump from another server is about other transactions.
            (select pg_catalog.pg_snapshot_xmax(s.snapshot)
             from unstale.horizon as h
             cross join lateral (select h.snapshot union all select p.snapshot from unstale.purged as p) as s
             where h.system_identifier = server
             order by 1 desc limit 1),
            (select (o.xid::text::bigint + 1)::text::xid8 from unstale.outbox as o
             where o.xid < xmax_now
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
    -- As above, of this server only. One that ended before the oldest transaction that `after` lacks is covered.
    result.covered := not exists (
        select from unstale.horizon as h
        cross join lateral (select h.snapshot union all select p.snapshot from unstale.purged as p) as s
        where h.system_identifier = server
            and after_xmin < pg_catalog.pg_snapshot_xmax(s.snapshot) and not unstale.covers(after, s.snapshot)
    );
    -- The second and third: the database went back in time. The caller sees that in the fields.
    if not result.covered
        or after_xmax > xmax_now
        or pg_catalog.pg_snapshot_xmax(result.snapshot) > xmax_now
    then
        result.insert_lsn := pg_catalog.pg_current_wal_insert_lsn();
        result.flushed_lsn := pg_catalog.pg_current_wal_flush_lsn();
        result.database := unstale.database();
        return result;
    end if;

    if after_xmin = after_xmax
        and pg_catalog.pg_snapshot_xmin(result.snapshot) = pg_catalog.pg_snapshot_xmax(result.snapshot)
    then
        lows := array[after_xmax];
        highs := array[pg_catalog.pg_snapshot_xmax(result.snapshot)];
    else
        select pg_catalog.array_agg(r.low), pg_catalog.array_agg(r.high) into lows, highs
        from unstale.new_ranges(after, result.snapshot) as r;
    end if;
    -- The ranges ascend, so the entries do. The loop fetches a few at a time, so no more are held than fit.
    for one in
        select
            o.xid, o.id, o.operation, pg_catalog.cardinality(o.keys) as elements,
            (o.watch, o.version, case when pg_catalog.array_ndims(o.keys) > 1
                then array(select pg_catalog.unnest(o.keys)) else o.keys end)::unstale.entry as entry
        from rows from (pg_catalog.unnest(lows), pg_catalog.unnest(highs)) as r(low, high)
        cross join lateral (
            select o.* from unstale.outbox as o
            -- From the cursor on, in the range that holds it; all of a later one.
            where (o.xid, o.id) > (
                    greatest(r.low, after_xid),
                    case when after_xid >= r.low then after_id else smallest_id end
                ) and o.xid < r.high
            order by o.xid, o.id
        ) as o
    loop
        if room_entries <= 0 or room_elements <= 0 then
            result.more := true;
            next_xid := one.xid;
            exit;
        end if;
        entries := entries || one.entry;
        xids := xids || one.xid;
        result.operations := result.operations || coalesce(one.operation::text, '-');
        result.last_xid := one.xid;
        result.last_id := one.id;
        room_entries := room_entries - 1;
        room_elements := room_elements - coalesce(one.elements, 1);
    end loop;
    result.entries := entries;
    result.xids := xids;

    -- Everything below `frontier` has been delivered. It never lies above a committed transaction (see above).
    frontier := case
        when result.last_xid is null then after_xmax
        when result.more and next_xid = result.last_xid then result.last_xid
        else (result.last_xid::text::bigint + 1)::text::xid8
    end;
    if frontier >= after_xmax then
        result.position := case when pg_catalog.pg_snapshot_xmin(result.snapshot) >= frontier
            then (frontier || ':' || frontier || ':')::pg_snapshot
            else unstale.cut(result.snapshot, frontier) end;
    elsif not result.more then
        result.position := unstale.cut(result.snapshot, after_xmax);
    else
        -- Still among the transactions that were open in `after`: hold back those not delivered yet.
        result.position := unstale.cut(
            result.snapshot,
            after_xmax,
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
