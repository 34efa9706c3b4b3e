-- Tables, views, functions and policies that the loaders of test_missing_rules.py read.
create table people (id bigint primary key, name text, org_id bigint);
create table orgs (id bigint primary key, plan text, country text);
create table countries (code text primary key, name text);
create table notes (id bigint primary key, person_id bigint, body text);
create table tags (id bigint primary key, note_id bigint, tag text);
create table members (person_id bigint, room_id bigint, primary key (person_id, room_id));
create table rooms (id bigint primary key, title text);
create table events (person_id bigint, day date, what text) partition by range (day);
create table events_2025 partition of events for values from ('2025-01-01') to ('2026-01-01');
create table events_2026 partition of events for values from ('2026-01-01') to ('2027-01-01');
create table visits_by_day (person_id bigint, day date, what text, primary key (person_id, day)) partition by range (day);
create table visits_2026 partition of visits_by_day for values from ('2026-01-01') to ('2027-01-01');
create table "Odd Table" ("The Id" bigint primary key, "Value" text);
create table flags (name text primary key, value boolean);
create table friends (a bigint, b bigint, primary key (a, b));
create table secrets (id bigint primary key, person_id bigint, body text);
create table grants (person_id bigint, secret_id bigint, primary key (person_id, secret_id));
create table letters (id bigint primary key, person_id bigint, body text);
create table blocked (person_id bigint primary key);
create table prices (plan text primary key, cents integer);
create table visits (person_id bigint, at timestamptz);
create table scores (person_id bigint primary key, points integer);

create view named as select id, name from people;
create view named_again as select id, upper(name) as name from named;
create view invoked with (security_invoker = true) as select n.id, n.person_id, n.body from notes as n;

create function inlined(person bigint) returns setof notes language sql stable
    as 'select * from public.notes where person_id = person';
create function opaque(person bigint) returns bigint language sql security definer set search_path = ''
    as 'select count(*) from public.visits as v where v.person_id = person';
create function atomic(person bigint) returns integer language sql stable security definer
    begin atomic select points from scores where person_id = person; end;
create function procedural(person bigint) returns text language plpgsql stable set search_path = 'public' as $$
declare
    found text; -- from nothing
begin
    select r.title into found from rooms as r, members m where m.room_id = r.id and m.person_id = person;
    return found || ' from orgs';
end $$;
create function outer_function(person bigint) returns text language plpgsql stable as $$
begin
    return public.procedural(person);
end $$;
create function may_read(person bigint, secret bigint) returns boolean language sql stable security definer
    as 'select exists (select from public.grants as g where g.person_id = person and g.secret_id = secret)';

alter table secrets enable row level security;
create policy granted on secrets for select using (
    public.may_read(nullif(current_setting('app.person', true), '')::bigint, id)
);
alter table letters enable row level security;
create policy unblocked on letters for select using (
    not exists (select from public.blocked as b where b.person_id = letters.person_id)
);
grant usage on schema public to authenticated;
grant select on secrets, letters, blocked to authenticated;
insert into people select g, 'n' || g, 1 from generate_series(1, 3) as g;
insert into orgs values (1, 'pro', 'de');
