-- The way in over HTTPS: what service_role may, that nobody else may anything, and that captures tell sparingly.
begin;
create extension if not exists pgtap with schema extensions;
set local search_path = extensions, public, pg_catalog;
select plan(16);

create table public.watched_there (id bigint primary key, name text);
select unstale.watch('public.watched_there', '{id}');

select function_privs_are('public', 'unstale_read', '{text,text,text,bigint,integer,integer,boolean}', 'service_role',
    '{EXECUTE}', 'service_role may read the outbox');
select function_privs_are('public', 'unstale_watches', '{}', 'service_role', '{EXECUTE}', 'service_role may see the watches');
select function_privs_are('public', 'unstale_watch_states', '{integer[]}', 'service_role', '{EXECUTE}',
    'service_role may see the state of the captures');
select function_privs_are('public', 'unstale_purge', '{integer,"double precision",bigint}', 'service_role', '{EXECUTE}',
    'service_role may purge');
select function_privs_are('public', 'unstale_position_before', '{"double precision"}', 'service_role', '{EXECUTE}',
    'service_role may ask where to read again from');
select function_privs_are('public', 'unstale_fanout', '{text,jsonb,integer}', 'service_role', '{EXECUTE}',
    'service_role may run the rules'' queries');
select function_privs_are('public', 'unstale_check', '{}', 'service_role', '{EXECUTE}', 'service_role may ask for findings');
select table_privs_are('public', 'unstale_wakeup', 'service_role', '{SELECT}', 'service_role may only read wake-ups');
select table_privs_are('public', 'unstale_wakeup', 'anon', '{}', 'anon may do nothing with wake-ups');
select table_privs_are('public', 'unstale_wakeup', 'authenticated', '{}', 'nor may signed-in users');
select is_empty(
    $$ select c.oid::regclass from pg_class as c
       where c.relnamespace = 'unstale'::regnamespace and c.relkind = 'r'
           and has_table_privilege('service_role', c.oid, 'select,insert,update,delete,truncate') $$,
    'service_role reaches private tables through functions only');

insert into public.watched_there values (1, 'nobody listens');
select is_empty('select * from public.unstale_wakeup', 'nobody listens: nothing is told');

set local role service_role;
select isnt(public.unstale_read(wakeups => true) ->> 'position', null, 'a read returns a position');
reset role;
insert into public.watched_there select g, 'told' from generate_series(2, 100) as g;
select is((select count(*) from public.unstale_wakeup), 1::bigint, 'somebody listens: one row for all of it');
insert into public.unstale_wakeup (id) values (1);
set local role service_role;
select cmp_ok(public.unstale_purge(10), '>=', 0::bigint, 'a purge returns how many entries it deleted');
reset role;
select is((select count(*) from public.unstale_wakeup where id = 1), 0::bigint, 'and takes old wake-ups along');

select * from finish();
rollback;
