-- Captures: which triggers a watch makes, and what they write.
begin;
create extension if not exists pgtap with schema extensions;
set local search_path = extensions, public, pg_catalog;
select plan(12);

create table public.notes (id bigint primary key, owner uuid, body text);
select unstale.watch('public.notes', '{id,owner}');

select results_eq(
    $$ select t.tgenabled::text, count(*) from pg_trigger as t
       where t.tgrelid = 'public.notes'::regclass and t.tgname like 'unstale%' group by 1 $$,
    $$ values ('A', 4::bigint) $$,
    'four captures, which also fire for replicated sessions');

create function pg_temp.newest() returns text[] language sql as
$$ select keys from unstale.outbox order by xid desc, id desc limit 1 $$;
create function pg_temp.entries() returns bigint language sql as $$ select count(*) from unstale.outbox $$;

insert into public.notes values (1, '6f1c8a1e-0000-4000-8000-000000000001', 'x');
select is(pg_temp.newest(), '{{1,6f1c8a1e-0000-4000-8000-000000000001}}'::text[], 'an insert writes its keys');
update public.notes set id = 2;
select is(
    (select array_agg(k order by k) from unnest(pg_temp.newest()) as k where k in ('1', '2')), '{1,2}'::text[],
    'an update writes old and new keys');
delete from public.notes;
select is(pg_temp.newest(), '{{2,6f1c8a1e-0000-4000-8000-000000000001}}'::text[], 'a delete writes the old keys');
truncate public.notes;
select is(pg_temp.newest(), null, 'TRUNCATE says: anything may have changed');

select is(unstale.unwatch('public.notes'), true, 'unwatch says that there was a watch');
select is_empty(
    $$ select from pg_trigger as t where t.tgrelid = 'public.notes'::regclass and t.tgname like 'unstale%' $$,
    'and removes its captures');

create temporary table counted on commit drop as select pg_temp.entries() as before;
insert into public.notes values (3, null, 'y');
select is(pg_temp.entries(), (select before from counted), 'an unwatched table writes nothing');

select throws_ok($$ select unstale.watch('public.notes', '{nothing}') $$, 'UN002', null, 'an unknown column is refused');
create table public.prices (amount numeric primary key);
select throws_ok($$ select unstale.watch('public.prices', '{amount}') $$, 'UN003', null, 'a type without one text form is refused');

select unstale.watch('public.notes', '{id}', '{body}');
truncate counted;
insert into counted select pg_temp.entries();
update public.notes set owner = '6f1c8a1e-0000-4000-8000-000000000002';
select is(pg_temp.entries(), (select before from counted), 'a filtered column that stays writes nothing');
update public.notes set body = 'z';
select is(pg_temp.newest(), '{3}'::text[], 'a filtered column that changes writes the keys');

select * from finish();
rollback;
