-- Row level security stands on every table, also behind the missing grants.
begin;
create extension if not exists pgtap with schema extensions;
set local search_path = extensions, public, pg_catalog;
select plan(4);

select is_empty(
    $$ select c.oid::regclass from pg_class as c
       where (c.relnamespace = 'unstale'::regnamespace
              or c.relnamespace = 'public'::regnamespace and c.relname like 'unstale%')
           and c.relkind in ('r', 'p') and not c.relrowsecurity $$,
    'every table has row level security');
select is_empty(
    $$ select p.polname from pg_policy as p join pg_class as c on c.oid = p.polrelid
       where c.relnamespace = 'unstale'::regnamespace
           and (select oid from pg_roles where rolname = 'anon') = any (p.polroles) $$,
    'no policy lets anon in');

create table public.diary (id bigint primary key, owner text);
alter table public.diary enable row level security;
grant select, insert, update, delete on public.diary to authenticated;
create policy own on public.diary to authenticated using (owner = 'ada') with check (owner = 'ada');
insert into public.diary values (1, 'ada'), (2, 'bob');
select unstale.watch('public.diary', '{id}');

set local role authenticated;
update public.diary set owner = owner;
reset role;
select is(
    (select keys from unstale.outbox order by xid desc, id desc limit 1), '{1}'::text[],
    'a capture sees what the writer''s policies let through, and no more');

-- A table that somebody granted by mistake still shows nothing.
grant usage on schema unstale to authenticated;
grant select on unstale.outbox to authenticated;
set local role authenticated;
select extensions.is((select pg_catalog.count(*) from unstale.outbox), 0::bigint, 'a grant alone opens no row');
reset role;

select * from finish();
rollback;
