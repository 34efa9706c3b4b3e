-- Retention: old entries leave the outbox, read or not, and the horizon remembers which.
--
-- What:   unstale.purge(), called by the worker, by pg_cron where it exists, and by one capture in about a thousand.
-- Why:    the outbox must not fill the disk when the worker is gone for good. A worker whose position lacks something
--         that may have been purged sees that (`covered` in unstale.read) and drops every key.
-- Locks:  none that anybody waits for: one purge at a time by a try-lock, locked rows are skipped.
-- Undo:   drop function unstale.purge, unstale.maintain, unstale.record_snapshot;
--         select cron.unschedule('unstale-purge'), where pg_cron is used.

create or replace function unstale.record_snapshot(every interval) returns void
language sql volatile set search_path = ''
as $$
    -- Of the future: the clock was set back. They would keep everything until then.
    delete from unstale.snapshots as s
    where s.taken_at > pg_catalog.clock_timestamp() + interval '1 minute';
    -- The snapshot is older than the time stamp beside it, so what it shows was committed before that time.
    insert into unstale.snapshots (snapshot, taken_at)
    select pg_catalog.pg_current_snapshot(), pg_catalog.clock_timestamp()
    where not exists (select from unstale.snapshots as s where s.taken_at > pg_catalog.clock_timestamp() - every)
    on conflict do nothing;
$$;
comment on function unstale.record_snapshot(interval) is 'Records the current snapshot, unless one is younger than that.';

create or replace function unstale.purge(
    max_rows        integer  default 5000,
    retention       interval default null,
    max_outbox_rows bigint   default null
) returns bigint
language plpgsql volatile security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
    horizon unstale.horizon;
    server  bigint;
    settled pg_snapshot;
    span    record;
    gone    record;
    room    integer := greatest(max_rows, 1);
    highest bigint;
    top     xid8;
begin
    -- Elsewhere a statement sees the transaction's snapshot, and an update of the horizon could fail.
    if pg_catalog.current_setting('transaction_isolation') <> 'read committed'
        or pg_catalog.current_setting('transaction_read_only') = 'on'
        or not pg_catalog.pg_try_advisory_xact_lock(1970496884, 3)
    then
        return 0;
    end if;

    select h.* into strict horizon from unstale.horizon as h;
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
        delete from unstale.outbox as o
        where o.xid >= pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot());
        update unstale.horizon as h set system_identifier = server, snapshot = '1:1:'
        where h.only_row
        returning h.* into horizon;
    end if;

    perform unstale.record_snapshot(least(interval '1 minute', horizon.retention / 10));
    -- n_live_tup, not count(*): a bound that protects a disk may be inexact, and must be cheap to look at.
    if horizon.retention <= interval '0'
        or pg_catalog.pg_stat_get_live_tuples('unstale.outbox'::regclass) > horizon.max_outbox_rows
    then
        settled := pg_catalog.pg_current_snapshot();
    else
        select s.snapshot into settled
        from unstale.snapshots as s
        where s.taken_at <= pg_catalog.clock_timestamp() - horizon.retention
        order by s.taken_at desc limit 1;
        delete from unstale.snapshots as s
        where s.taken_at < (
            select pg_catalog.max(o.taken_at) from unstale.snapshots as o
            where o.taken_at <= pg_catalog.clock_timestamp() - horizon.retention
        );
    end if;
    if settled is null then
        return 0;
    end if;

    -- From the horizon on: what was deleted before is still in the index until a vacuum, and is not walked again.
    for span in select r.low, r.high from unstale.new_ranges(horizon.snapshot, settled) as r loop
        with deleted as (
            delete from unstale.outbox as o
            where o.ctid = any (array(
                select d.ctid from unstale.outbox as d
                where d.xid >= span.low and d.xid < span.high
                order by d.xid, d.id
                limit room
                for update skip locked
            ))
            returning o.xid
        )
        select pg_catalog.count(*)::integer as entries, pg_catalog.max(d.xid::text::bigint) as highest
        into gone from deleted as d;
        room := room - gone.entries;
        highest := greatest(highest, gone.highest);
        exit when room <= 0;
    end loop;

    if highest is not null then
        -- `settled` below what was deleted. What an older snapshot shows, a younger one shows too, so this contains the
        -- old horizon; and from a snapshot older than the horizon nothing was deleted just now.
        top := greatest(pg_catalog.pg_snapshot_xmax(horizon.snapshot), (highest + 1)::text::xid8);
        update unstale.horizon as h set snapshot = unstale.cut(settled, top) where h.only_row;
    end if;
    return greatest(max_rows, 1) - room;
end
$$;
comment on function unstale.purge(integer, interval, bigint) is
    'One step: deletes at most max_rows entries older than retention (null: as last told, at first 1 hour) or beyond '
    'max_outbox_rows (null: as last told, at first 10 million), oldest first; returns how many.';

create or replace function unstale.maintain() returns void
language plpgsql volatile set search_path = ''
as $$
begin
    perform unstale.purge(500);
exception when others then
    -- The writer whose statement this is has nothing to do with it.
    null;
end
$$;
comment on function unstale.maintain() is 'A small purge on the way, by a capture: works without any worker.';

revoke all on function
    unstale.record_snapshot(interval), unstale.purge(integer, interval, bigint), unstale.maintain()
from public;
grant execute on function unstale.purge(integer, interval, bigint) to unstale_worker;

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
