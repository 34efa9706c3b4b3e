-- Partitions, a materialized view, and a function that makes the next partition.
create table public.events (
    id bigint generated always as identity,
    project_id uuid not null,
    kind text not null,
    occurred_at timestamptz not null default now(),
    payload jsonb not null default '{}',
    primary key (id, occurred_at)
) partition by range (occurred_at);
create table public.events_2026_11 partition of public.events for values from ('2026-11-01') to ('2026-12-01');
create table public.events_2026_12 partition of public.events for values from ('2026-12-01') to ('2027-01-01');
create table public.events_rest partition of public.events default;
create index on public.events (project_id, occurred_at desc);
create index events_payload on public.events using gin (payload jsonb_path_ops);
create materialized view public.events_per_day as
select project_id, date_trunc('day', occurred_at) as day, kind, count(*) as number
from public.events group by 1, 2, 3
with no data;
create unique index on public.events_per_day (project_id, day, kind);
refresh materialized view public.events_per_day;
insert into public.events (project_id, kind, occurred_at)
select gen_random_uuid(), 'view', '2026-11-15'::timestamptz + n * interval '1 day' from generate_series(1, 40) as n;
refresh materialized view concurrently public.events_per_day;
do $do$
declare
    next date := date '2027-01-01';
begin
    execute format(
        $f$create table if not exists public.events_%s partition of public.events for values from (%L) to (%L)$f$,
        to_char(next, 'YYYY_MM'), next, next + interval '1 month'
    );
end
$do$;
create rule no_delete as on delete to public.events_2026_11 do instead (select 1; select 2);
