-- Who may do what: nobody reaches the private schema through the API, and the worker only what it needs.
begin;
create extension if not exists pgtap with schema extensions;
set local search_path = extensions, public, pg_catalog;
select plan(16);

create table public.watched_here (id bigint primary key, name text);
select unstale.watch('public.watched_here', '{id}', '{name}');

select schema_privs_are('unstale', 'anon', '{}', 'anon cannot use the schema');
select schema_privs_are('unstale', 'authenticated', '{}', 'authenticated cannot use the schema');
select schema_privs_are('unstale', 'service_role', '{USAGE}', 'service_role may name what is in it');
select schema_privs_are('unstale', 'unstale_worker', '{USAGE}', 'the worker may name what is in it');

select is_empty(
    $$ select p.oid::regprocedure, r.rolname from pg_proc as p cross join pg_roles as r
       where p.pronamespace = 'unstale'::regnamespace and r.rolname in ('anon', 'authenticated')
           and has_function_privilege(r.oid, p.oid, 'execute') $$,
    'no function of the schema may be called by anon or authenticated');
select is_empty(
    $$ select p.oid::regprocedure from pg_proc as p
       where p.pronamespace = 'public'::regnamespace and p.proname like 'unstale%'
           and (has_function_privilege('anon', p.oid, 'execute') or has_function_privilege('authenticated', p.oid, 'execute')) $$,
    'no function for the API may be called by anon or authenticated');
select is_empty(
    $$ select p.oid::regprocedure from pg_proc as p
       where p.pronamespace = 'public'::regnamespace and p.proname like 'unstale%' and p.prosecdef $$,
    'functions for the API run with the rights of who calls them');
select is_empty(
    $$ select p.oid::regprocedure from pg_proc as p
       where (p.pronamespace = 'unstale'::regnamespace
              or p.pronamespace = 'public'::regnamespace and p.proname like 'unstale%')
           and not coalesce('search_path=""' = any (p.proconfig), false) $$,
    'every function, captures included, has an empty search_path');
select is_empty(
    $$ select p.oid::regprocedure from pg_proc as p
       where p.pronamespace = 'unstale'::regnamespace and p.proname like 'capture%'
           and exists (select from aclexplode(p.proacl) as a where a.grantee = 0) $$,
    'no capture may be called by everybody');
select is_empty(
    $$ select c.relname, r.rolname, t.privilege from pg_class as c
       cross join pg_roles as r
       cross join (values ('select'), ('insert'), ('update'), ('delete'), ('truncate')) as t(privilege)
       where c.relnamespace = 'unstale'::regnamespace and c.relkind in ('r', 'v', 'S')
           and r.rolname in ('anon', 'authenticated')
           and c.relkind <> 'S' and has_table_privilege(r.oid, c.oid, t.privilege) $$,
    'anon and authenticated have no right on any table');
select is_empty(
    $$ select c.relname from pg_class as c
       where c.relnamespace = 'unstale'::regnamespace and c.relkind = 'r'
           and (has_table_privilege('unstale_worker', c.oid, 'insert') or has_table_privilege('unstale_worker', c.oid, 'delete')
                or has_table_privilege('unstale_worker', c.oid, 'update')) $$,
    'the worker writes tables through functions only');
select function_privs_are('unstale', 'watch', '{regclass,"text[]","text[]"}', 'unstale_worker', '{}',
    'the worker cannot watch tables');
select is(
    (select array_agg(rolname::text) from pg_roles
     where rolname = 'unstale_worker' and (rolsuper or rolcreatedb or rolcreaterole or rolreplication or rolbypassrls)),
    null, 'the worker''s role has no power of its own');
select function_privs_are('unstale', 'token', '{}', 'service_role', '{EXECUTE}', 'servers with the secret key may ask for a token');
select function_privs_are('unstale', 'because', '{jsonb}', 'anon', '{}', 'visitors may not annotate transactions');
select throws_ok(
    $$ set local role authenticated; select unstale.token() $$, '42501', null, 'a signed-in user may not');
reset role;

select * from finish();
rollback;
