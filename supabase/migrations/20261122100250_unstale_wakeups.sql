-- Wake-ups: by NOTIFY over a connection, and over HTTPS by a small table that Supabase Realtime tells the worker about.
--
-- What:   sequences by which a worker tells captures that it wants wake-ups, the functions that set them, and
--         public.unstale_wakeup. Only while a worker reads over HTTPS and says so every few seconds do captures write a
--         row, at most one in 100 ms: Realtime counts messages, and the entries of a bulk change would use the project's
--         quota up. A row means "there may be something new" and nothing else.
-- Locks:  none that anybody waits for. Adding the table to the publication supabase_realtime locks only that table.
-- Undo:   drop table public.unstale_wakeup; drop function unstale.tell, unstale.want_wakeups, unstale.purge_wakeups,
--         unstale.want_notify, unstale.end_notify; drop sequence unstale.notify_wanted, unstale.wakeups_wanted,
--         unstale.wakeups_told;

create table if not exists public.unstale_wakeup (
    id bigint      not null,
    at timestamptz not null default pg_catalog.clock_timestamp(),
    constraint unstale_wakeup_pkey primary key (id)
);
comment on table public.unstale_wakeup is
    'Hints for a worker that reads over HTTPS, told by Supabase Realtime; purged after a minute. In public, because '
    'Realtime reads it as service_role; nobody else may.';
comment on column public.unstale_wakeup.id is 'Milliseconds since 1970.';

-- Sequences, because setval() is seen by every session at once, whatever its snapshot, and reading one costs a capture
-- less than a microsecond. No advisory lock: every role may take those. Each holds a time, so that a worker that ends
-- without a word is soon forgotten.
create sequence if not exists unstale.notify_wanted as bigint;
comment on sequence unstale.notify_wanted is 'Until when captures send NOTIFY: seconds since 1970.';
create sequence if not exists unstale.wakeups_wanted as bigint;
comment on sequence unstale.wakeups_wanted is 'Until when captures tell of changes: seconds since 1970.';
create sequence if not exists unstale.wakeups_told as bigint;
comment on sequence unstale.wakeups_told is 'The newest id in public.unstale_wakeup so far: milliseconds since 1970.';

do $$
begin
    if not (select c.relrowsecurity from pg_catalog.pg_class as c where c.oid = 'public.unstale_wakeup'::regclass) then
        alter table public.unstale_wakeup enable row level security;
    end if;
    revoke all on table public.unstale_wakeup from public;
    -- Older Supabase projects give every new table of public to these roles.
    if exists (select from pg_catalog.pg_roles where rolname = 'anon') then
        revoke all on table public.unstale_wakeup from anon;
    end if;
    if exists (select from pg_catalog.pg_roles where rolname = 'authenticated') then
        revoke all on table public.unstale_wakeup from authenticated;
    end if;
    if exists (select from pg_catalog.pg_roles where rolname = 'service_role') then
        revoke all on table public.unstale_wakeup from service_role;
        grant select on table public.unstale_wakeup to service_role;
    end if;
end
$$;

create or replace function unstale.publish_wakeups() returns text
language plpgsql volatile set search_path = ''
as $$
begin
    if exists (
        select from pg_catalog.pg_publication as p
        left join pg_catalog.pg_publication_rel as r on r.prpubid = p.oid
            and r.prrelid = 'public.unstale_wakeup'::pg_catalog.regclass
        where p.pubname = 'supabase_realtime' and not p.puballtables and r.oid is null
    ) then
        alter publication supabase_realtime add table public.unstale_wakeup;
    end if;
    return null;
exception when others then
    return sqlerrm;
end
$$;
comment on function unstale.publish_wakeups() is
    'Adds the table to the publication that Supabase Realtime reads, if there is one; returns why it could not.';

do $$
declare
    problem text := unstale.publish_wakeups();
begin
    if problem is not null then
        raise warning 'unstale: Realtime will send no wake-ups (%)', problem
            using hint = 'Let its owner run: alter publication supabase_realtime add table public.unstale_wakeup';
    end if;
end
$$;

create or replace function unstale.want_notify() returns text[]
language plpgsql volatile security definer set search_path = ''
as $$
begin
    perform pg_catalog.setval('unstale.notify_wanted',
        pg_catalog.ceil(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()))::bigint + 30);
    -- Looked at afterwards. A capture inserts its entry, which locks the outbox until the transaction ends, and then
    -- reads the sequence. So whoever read it before this call is either listed here or already visible to a read.
    return array(
        select distinct l.virtualtransaction from pg_catalog.pg_locks as l
        join pg_catalog.pg_database as d on d.oid = l.database
        where d.datname = pg_catalog.current_database() and l.locktype = 'relation' and l.granted
            and l.relation = 'unstale.outbox'::pg_catalog.regclass and l.mode = 'RowExclusiveLock'
    );
end
$$;
comment on function unstale.want_notify() is
    'Lets captures send NOTIFY for the next 30 seconds; returns the open transactions that have written to the outbox. '
    'At the first call, these may end without a NOTIFY.';

create or replace function unstale.end_notify() returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
    perform pg_catalog.setval('unstale.notify_wanted', 1);
end
$$;
comment on function unstale.end_notify() is 'Lets captures send no more NOTIFY.';

create or replace function unstale.want_wakeups() returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
    now_is constant bigint := pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())::bigint;
    wanted constant bigint := pg_catalog.pg_sequence_last_value('unstale.wakeups_wanted'::pg_catalog.regclass);
begin
    -- For 60 seconds, said again after 20: setval() writes WAL. In the far future: the clock was set back.
    if (wanted is null or wanted < now_is + 40 or wanted > now_is + 60)
        and pg_catalog.current_setting('transaction_read_only') = 'off'
    then
        perform pg_catalog.setval('unstale.wakeups_wanted', now_is + 60);
    end if;
end
$$;
comment on function unstale.want_wakeups() is 'Lets captures write to public.unstale_wakeup for the next 40 to 60 seconds.';

create or replace function unstale.tell() returns void
language plpgsql volatile set search_path = ''
as $$
declare
    now_is constant bigint := (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000)::bigint;
    last   constant bigint := pg_catalog.pg_sequence_last_value('unstale.wakeups_told'::pg_catalog.regclass);
    taken  bigint;
begin
    -- A clock that was set back starts anew where it stands.
    if pg_catalog.abs(now_is - last) < 100 then
        return;
    end if;
    begin
        -- Refused only while another session is between these lines, or while the table is vacuumed. No role without
        -- rights on the table can hold this lock.
        lock table public.unstale_wakeup in share update exclusive mode nowait;
        if pg_catalog.pg_sequence_last_value('unstale.wakeups_told'::pg_catalog.regclass) is not distinct from last then
            taken := pg_catalog.setval('unstale.wakeups_told', now_is);
        end if;
        -- Gives the lock back: held to the end of the transaction, it would silence everybody behind one long writer.
        raise exception using errcode = 'UN000';
    exception when others then
        null;
    end;
    if taken is not null then
        insert into public.unstale_wakeup (id) values (taken) on conflict do nothing;
    end if;
exception when others then
    -- A hint is never worth the writer's transaction. (The table may have been dropped.)
    null;
end
$$;
comment on function unstale.tell() is 'Writes a wake-up row, at most one in 100 ms; called by captures while they are wanted.';

create or replace function unstale.purge_wakeups() returns void
language sql volatile security definer set search_path = ''
as $$
    delete from public.unstale_wakeup as w
    where w.id < (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000)::bigint - 60000
        or w.id > (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000)::bigint + 3600000
$$;
comment on function unstale.purge_wakeups() is 'Deletes wake-up rows that are older than a minute.';

revoke all on function
    unstale.publish_wakeups(), unstale.want_notify(), unstale.end_notify(), unstale.want_wakeups(), unstale.tell(), unstale.purge_wakeups()
from public;
grant execute on function unstale.want_notify(), unstale.end_notify() to unstale_worker;
