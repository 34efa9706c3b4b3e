-- Retention: old entries leave the outbox, read or not, and the horizon remembers which.
--
-- What:   unstale.purge(), called by the worker, by pg_cron where it exists, and by one capture in about a thousand.
-- Why:    the outbox must not fill the disk when the worker is gone for good. A worker whose position lacks something
--         that may have been purged sees that (`covered` in unstale.read) and drops every key.
-- Locks:  none that anybody waits for, and none that another role can take: one purge at a time holds the horizon's row,
--         captures hold rows of the outbox only, and locked rows are skipped.
-- Undo:   drop function unstale.position_before, unstale.purge, unstale.maintain, unstale.delete_settled, unstale.settled, unstale.record_snapshot;
--         select cron.unschedule('unstale-purge'), where pg_cron is used.

create or replace function unstale.record_snapshot(every interval) returns void
language sql volatile set search_path = ''
as $$
    -- Of the future: the clock was set back. They would keep everything until then.
    delete from unstale.snapshots as s where s.taken_at = any (array(
        select f.taken_at from unstale.snapshots as f
        where f.taken_at > pg_catalog.clock_timestamp() + interval '1 minute'
        for update skip locked
    ));
    -- The snapshot is older than the time stamp beside it, so what it shows was committed before that time.
    insert into unstale.snapshots (snapshot, taken_at)
    select pg_catalog.pg_current_snapshot(), pg_catalog.clock_timestamp()
    where not exists (select from unstale.snapshots as s where s.taken_at > pg_catalog.clock_timestamp() - every)
    on conflict do nothing;
$$;
comment on function unstale.record_snapshot(interval) is 'Records the current snapshot, unless one is younger than that.';

create or replace function unstale.settled(retention interval, max_outbox_rows bigint) returns pg_snapshot
language plpgsql volatile set search_path = ''
as $$
declare
    newest timestamptz;
    found_snapshot pg_snapshot;
begin
    perform unstale.record_snapshot(least(interval '1 minute', retention / 10));
    -- n_live_tup, not count(*): a bound that protects a disk may be inexact, and must be cheap to look at.
    if retention <= interval '0'
        or pg_catalog.pg_stat_get_live_tuples('unstale.outbox'::regclass) > max_outbox_rows
    then
        return pg_catalog.pg_current_snapshot();
    end if;
    select s.taken_at, s.snapshot into newest, found_snapshot
    from unstale.snapshots as s
    where s.taken_at <= pg_catalog.clock_timestamp() - retention
    order by s.taken_at desc limit 1;
    delete from unstale.snapshots as s where s.taken_at = any (array(
        select o.taken_at from unstale.snapshots as o where o.taken_at < newest for update skip locked
    ));
    return found_snapshot;
end
$$;
comment on function unstale.settled(interval, bigint) is 'What was committed before this may be purged; null: nothing yet.';

create or replace function unstale.delete_settled(
    after pg_snapshot, settled pg_snapshot, max_rows integer,
    out entries integer, out highest bigint, out walked pg_snapshot
)
language plpgsql volatile
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
    span record;
    gone record;
    rest xid8;
begin
    entries := 0;
    walked := after;
    -- From `after` on: what was deleted before is still in the index until a vacuum, and is not walked again.
    for span in select r.low, r.high from unstale.new_ranges(after, settled) as r loop
        with deleted as (
            delete from unstale.outbox as o
            where o.ctid = any (array(
                select d.ctid from unstale.outbox as d
                where d.xid >= span.low and d.xid < span.high
                order by d.xid, d.id
                limit max_rows - entries
                for update skip locked
            ))
            returning o.xid
        )
        select pg_catalog.count(*)::integer as entries, pg_catalog.max(d.xid::text::bigint) as highest
        into gone from deleted as d;
        entries := entries + gone.entries;
        highest := greatest(highest, gone.highest);
        exit when entries >= max_rows;
    end loop;
    if highest is not null then
        -- What is left below: locked by a capture that purges and may roll back, or the rest of a large transaction.
        for span in select r.low, r.high from unstale.new_ranges(after, settled) as r loop
            select d.xid into rest from unstale.outbox as d
            where d.xid >= span.low and d.xid < span.high and d.xid <= highest::text::xid8
            order by d.xid limit 1;
            exit when rest is not null;
        end loop;
        walked := unstale.cut(settled, coalesce(rest, (highest + 1)::text::xid8));
    end if;
end
$$;
comment on function unstale.delete_settled(pg_snapshot, pg_snapshot, integer) is
    'Deletes the oldest entries of transactions in one snapshot and not in another: how many, the highest xid, where to go on.';

create or replace function unstale.purge(
    max_rows        integer  default 5000,
    retention       interval default null,
    max_outbox_rows bigint   default null
) returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
declare
    horizon unstale.horizon;
    server  bigint;
    settled pg_snapshot;
    gone    record;
    folded  xid8;
    next    pg_snapshot;
begin
    -- Elsewhere a statement sees the transaction's snapshot, and an update of the horizon could fail.
    if pg_catalog.current_setting('transaction_isolation') <> 'read committed'
        or pg_catalog.current_setting('transaction_read_only') = 'on'
    then
        return 0;
    end if;
    -- The row is the lock: one purge at a time, and nobody without rights on the table can hold it.
    select h.* into horizon from unstale.horizon as h for update skip locked;
    if not found then
        return 0;
    end if;
    if retention is distinct from horizon.retention and retention is not null
        or max_outbox_rows is distinct from horizon.max_outbox_rows and max_outbox_rows is not null
    then
        -- Captures go on with what the worker was told.
        update unstale.horizon as h
        set retention = coalesce(purge.retention, h.retention),
            max_outbox_rows = coalesce(purge.max_outbox_rows, h.max_outbox_rows)
        where h.only_row
        returning h.* into horizon;
    end if;

    select c.system_identifier into server from pg_catalog.pg_control_system() as c;
    if horizon.system_identifier <> server then
        -- Horizon and outbox came with a dump. Another server's xids mean nothing; those of our future would collide.
        delete from unstale.snapshots as s where s.taken_at is not null;
        delete from unstale.purged as p where p.xid is not null;
        delete from unstale.outbox as o
        where o.xid >= pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot());
        update unstale.horizon as h set system_identifier = server, snapshot = '1:1:', walked = null
        where h.only_row
        returning h.* into horizon;
    end if;

    settled := unstale.settled(horizon.retention, horizon.max_outbox_rows);
    if settled is null then
        return 0;
    end if;
    select * into gone
    from unstale.delete_settled(coalesce(horizon.walked, horizon.snapshot), settled, greatest(max_rows, 1));
    select pg_catalog.pg_snapshot_xmax(p.snapshot) into folded from unstale.purged as p
    where pg_catalog.pg_snapshot_xmax(p.snapshot) <= pg_catalog.pg_snapshot_xmax(settled)
    order by 1 desc limit 1;
    if gone.highest is not null or folded is not null then
        -- `settled` below what was deleted. What an older snapshot shows, a younger one shows too, so this contains the
        -- old horizon; and from a snapshot older than the horizon nothing was deleted just now.
        next := unstale.cut(settled, greatest(
            pg_catalog.pg_snapshot_xmax(horizon.snapshot), (gone.highest + 1)::text::xid8,
            folded));
        if unstale.covers(next, horizon.snapshot) then
            update unstale.horizon as h set snapshot = next, walked = gone.walked where h.only_row;
            delete from unstale.purged as p where p.xid = any (array(
                select c.xid from unstale.purged as c where unstale.covers(next, c.snapshot) for update skip locked
            ));
        end if;
    end if;
    return gone.entries;
end
$$;
comment on function unstale.purge(integer, interval, bigint) is
    'One step: deletes at most max_rows entries older than retention (null: as last told, at first 1 hour) or beyond '
    'max_outbox_rows (null: as last told, at first 10 million), oldest first; returns how many.';

create or replace function unstale.maintain() returns void
language plpgsql volatile set search_path = ''
as $$
declare
    horizon record;
    settled pg_snapshot;
    gone    record;
    next    pg_snapshot;
begin
    if pg_catalog.current_setting('transaction_isolation') <> 'read committed'
        or pg_catalog.current_setting('transaction_read_only') = 'on'
    then
        return;
    end if;
    select h.* into horizon from unstale.horizon as h;
    if horizon.system_identifier <> (select c.system_identifier from pg_catalog.pg_control_system() as c) then
        perform unstale.purge(500);
        return;
    end if;
    -- The transaction of the writer may stay open for hours. So it locks the entries that it deletes and nothing else:
    -- what it purged is a row of its own beside the horizon.
    settled := unstale.settled(horizon.retention, horizon.max_outbox_rows);
    if settled is null then
        return;
    end if;
    select * into gone from unstale.delete_settled(coalesce(horizon.walked, horizon.snapshot), settled, 500);
    if gone.highest is null then
        return;
    end if;
    next := unstale.cut(settled, greatest(
        pg_catalog.pg_snapshot_xmax(horizon.snapshot), (gone.highest + 1)::text::xid8));
    insert into unstale.purged as p (snapshot) values (next)
    on conflict on constraint purged_pkey do update set snapshot = unstale.cut(
        settled, greatest(pg_catalog.pg_snapshot_xmax(p.snapshot), pg_catalog.pg_snapshot_xmax(excluded.snapshot)));
    delete from unstale.purged as p where p.xid = any (array(
        select c.xid from unstale.purged as c
        where c.xid <> pg_catalog.pg_current_xact_id() and unstale.covers(next, c.snapshot)
        for update skip locked
    ));
exception when others then
    -- The writer whose statement this is has nothing to do with it.
    null;
end
$$;
comment on function unstale.maintain() is 'A small purge on the way, by a capture: works without any worker.';

create or replace function unstale.position_before(
    ago interval, out "position" pg_snapshot, out age double precision, out reach double precision
)
language plpgsql stable security definer set search_path = ''
as $$
-- Where to read again from: the newest recorded position that lacks everything committed in the last `ago`. Null if that
-- was purged. age: seconds since that position; null: it is the beginning of the outbox. reach: seconds as far back as
-- this can go, to the oldest recorded position that lacks nothing of the outbox; null: to the beginning.
declare
    horizon pg_snapshot;
    purged  pg_snapshot[];
begin
    select h.snapshot into horizon
    from unstale.horizon as h
    join pg_catalog.pg_control_system() as c on c.system_identifier = h.system_identifier;
    purged := array(select p.snapshot from unstale.purged as p);
    if horizon is null then
        reach := 0; -- what is recorded came with a dump from another server
        return;
    end if;
    select s.snapshot, extract(epoch from pg_catalog.clock_timestamp() - s.taken_at)
    into "position", age
    from unstale.snapshots as s
    where s.taken_at <= pg_catalog.clock_timestamp() - ago and unstale.covers(s.snapshot, horizon)
        and not exists (select from pg_catalog.unnest(purged) as p(snapshot) where not unstale.covers(s.snapshot, p.snapshot))
    order by s.taken_at desc limit 1;
    select extract(epoch from pg_catalog.clock_timestamp() - pg_catalog.min(s.taken_at)) into reach
    from unstale.snapshots as s
    where unstale.covers(s.snapshot, horizon)
        and not exists (select from pg_catalog.unnest(purged) as p(snapshot) where not unstale.covers(s.snapshot, p.snapshot));
    if horizon::text = '1:1:' and pg_catalog.cardinality(purged) = 0 then
        reach := null; -- nothing was ever purged
        "position" := coalesce("position", '1:1:'::pg_snapshot);
    else
        reach := coalesce(reach, 0);
    end if;
end
$$;
comment on function unstale.position_before(interval) is
    'The newest recorded position that lacks everything committed in the last so long, and how far back one can go.';

revoke all on function
    unstale.position_before(interval), unstale.record_snapshot(interval), unstale.settled(interval, bigint),
    unstale.delete_settled(pg_snapshot, pg_snapshot, integer),
    unstale.purge(integer, interval, bigint), unstale.maintain()
from public;
grant execute on function unstale.position_before(interval), unstale.purge(integer, interval, bigint) to unstale_worker;

do $$
begin
    if exists (select from pg_catalog.pg_extension where extname = 'pg_cron') then
        execute $cron$select cron.schedule('unstale-purge', '* * * * *', 'select unstale.purge(50000)')$cron$;
    end if;
exception when others then
    -- Optional: without it, worker and captures purge.
    raise notice 'pg_cron is not used: %', sqlerrm;
end
$$;
