-- The worker's way in over HTTPS: seven functions in `public`, which the Data API offers as POST /rest/v1/rpc/<name>.
--
-- What:   unstale_read, unstale_watches, unstale_watch_states, unstale_purge, unstale_position_before, unstale_fanout,
--         unstale_check. Each returns one value, because the
--         API cuts sets at a number of rows without an error. Each may be called again whenever an answer got lost.
-- Rights: SECURITY INVOKER, and only service_role may execute them; what that role needs below is granted here.
--         On a server without Supabase's roles, nobody but the owner may.
-- Limits: the API ends a statement after 8 seconds and refuses an UPDATE or DELETE without WHERE; all of it fits.
-- Locks:  none. Re-running replaces the functions.
-- Undo:   drop function public.unstale_read, public.unstale_watches, public.unstale_purge, public.unstale_fanout,
--         public.unstale_watch_states, public.unstale_position_before, public.unstale_check;
--         drop function unstale.run_query;

create or replace function public.unstale_read(
    after        text    default null,
    upto         text    default null,
    after_xid    text    default null,
    after_id     bigint  default null,
    max_entries  integer default 5000,
    max_elements integer default 50000,
    wakeups      boolean default false
) returns json
language plpgsql volatile security invoker set search_path = ''
as $$
declare
    page unstale.batch;
begin
    -- One expression, one snapshot: entries, position and horizon belong together. A replica raises here.
    page := unstale.read(after::pg_snapshot, upto::pg_snapshot, after_xid::xid8, after_id, max_entries, max_elements);
    if wakeups then
        perform unstale.want_wakeups();
    end if;
    -- json, not jsonb: it is only written. A page of 5,000 entries: 3 ms instead of 8 beside 4.5 for the read.
    return pg_catalog.json_build_object(
        'database', page.database,
        'snapshot', page.snapshot::text,
        'position', page.position::text,
        'more', page.more,
        'last_xid', page.last_xid::text::bigint,
        'last_id', page.last_id,
        'lsn', page.insert_lsn::text,
        'flushed', page.flushed_lsn::text,
        'covered', page.covered,
        'current_xmax', page.current_xmax::text::bigint,
        'entries', coalesce((
            select pg_catalog.json_agg(pg_catalog.json_build_array(e.watch, e.version, e.keys))
            from pg_catalog.unnest(page.entries) as e
        ), '[]'),
        'xids', page.xids::text[]::bigint[],
        'operations', page.operations
    );
end
$$;
comment on function public.unstale_read(text, text, text, bigint, integer, integer, boolean) is
    'unstale.read() as one JSON object. With `wakeups`, captures write to public.unstale_wakeup for the next minute.';

create or replace function public.unstale_watches() returns jsonb
language sql stable security invoker set search_path = ''
as $$
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
        v.watch, v.version, v.table_schema, v.table_name, v.key_columns, v.current, v.columns, v.key_types
    ) order by v.watch, v.version), '[]')
    from unstale.watch_versions as v
$$;
comment on function public.unstale_watches() is 'unstale.watch_versions as one JSON array.';

create or replace function public.unstale_watch_states(described integer[] default '{}') returns jsonb
language sql stable security invoker set search_path = ''
as $$
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
        s.watch, s."current", s.table_schema, s.table_name, s.key_columns, s.columns, s.broken, s.coarse
    ) order by s.watch), '[]')
    from unstale.watch_states(described) as s
$$;
comment on function public.unstale_watch_states(integer[]) is 'unstale.watch_states() as one JSON array.';

create or replace function public.unstale_purge(
    max_rows integer default 5000, retention double precision default null, max_outbox_rows bigint default null
) returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
begin
    perform unstale.purge_wakeups();
    return unstale.purge(max_rows, pg_catalog.make_interval(secs => retention), max_outbox_rows);
end
$$;
comment on function public.unstale_purge(integer, double precision, bigint) is
    'One step of unstale.purge(); retention in seconds.';

create or replace function public.unstale_position_before(ago double precision) returns jsonb
language sql stable security invoker set search_path = ''
as $$
    select pg_catalog.jsonb_build_object('position', p."position"::text, 'age', p.age, 'reach', p.reach)
    from unstale.position_before(pg_catalog.make_interval(secs => ago)) as p
$$;
comment on function public.unstale_position_before(double precision) is
    'unstale.position_before() as one JSON object; `ago` in seconds.';

create or replace function unstale.run_query(
    table_schema text, table_name text, columns text[], wanted text[], query text, given jsonb, most integer
) returns jsonb
language plpgsql stable security invoker
set search_path = ''
-- A policy that would hide rows becomes an error instead of keys that are silently left out.
set row_security = off
as $$
declare
    relation oid;
    missing  text;
    casts    text;
    picked   text;
    typed    text;
    answered text;
    result   jsonb;
begin
    select c.oid into relation
    from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = table_schema and c.relname = table_name;
    if relation is null then
        raise exception 'there is no table %.%', table_schema, table_name using errcode = 'undefined_table';
    end if;
    select
        pg_catalog.string_agg(
            pg_catalog.format(', (g.row_of ->> %s)::%s as %I', o.place - 1,
                pg_catalog.format_type(a.atttypid, a.atttypmod), o.name), '' order by o.place),
        pg_catalog.string_agg(o.name, ', ') filter (where a.attname is null)
    into casts, missing
    from pg_catalog.unnest(columns) with ordinality as o(name, place)
    left join pg_catalog.pg_attribute as a
        on a.attrelid = relation and a.attname = o.name and a.attnum > 0 and not a.attisdropped;
    if missing is not null then
        raise exception 'neither the query nor %.% has column %', table_schema, table_name, missing
            using errcode = 'undefined_column';
    end if;
    -- A name that the query returns is found in x; one that it does not return is the changed row's, one level further
    -- out. A column has a type even where there is no row.
    select
        pg_catalog.string_agg(
            pg_catalog.format('(select %I from (select "unstale found".*) as x) as a%s', w.name, w.place), ', '
            order by w.place),
        pg_catalog.string_agg(
            pg_catalog.format('pg_catalog.pg_typeof((select a%s from answer limit 0))', w.place), ', ' order by w.place),
        pg_catalog.string_agg(pg_catalog.format('a%s', w.place), ', ' order by w.place)
    into picked, typed, answered
    -- Keys without a placeholder need no column, only to know whether there is an answer.
    from pg_catalog.unnest(case when wanted = '{}' then '{unstale row}' else wanted end) with ordinality as w(name, place);
    -- As over a connection of the worker's own: the query may name tables of public without their schema.
    perform pg_catalog.set_config('search_path', 'public, extensions', true);
    execute 'with answer as (select ' || picked
        || ' from pg_catalog.jsonb_array_elements($1) as g(row_of) cross join lateral (select g.row_of as "unstale row"'
        || coalesce(casts, '') || ') as "unstale changed" cross join lateral (' || E'\n' || query || E'\n'
        || ') as "unstale found" limit $2) select pg_catalog.jsonb_build_object('
        || '''rows'', (select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(' || answered || ')), ''[]'') '
        || 'from answer), ''types'', array[' || typed || ']::oid[])'
    into result using given, most;
    return pg_catalog.jsonb_build_object('rows', result -> 'rows', 'types', (
        select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(n.nspname, t.typname, t.typtype::text) order by r.place)
        from pg_catalog.jsonb_array_elements_text(result -> 'types') with ordinality as r(type, place)
        join pg_catalog.pg_type as t on t.oid = r.type::oid
        join pg_catalog.pg_namespace as n on n.oid = t.typnamespace
    ));
end
$$;
comment on function unstale.run_query(text, text, text[], text[], text, jsonb, integer) is
    'Runs a rule''s query for many changed rows: `given` holds an array of text for each, in the order of `columns`; '
    'returns the `wanted` columns of at most `most` answers, and their types.';

create or replace function public.unstale_fanout(query text, given jsonb, most integer default 100001) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
    result jsonb;
begin
    if pg_catalog.pg_is_in_recovery() then
        raise exception 'this is a replica' using errcode = 'UN013', hint = 'Call it with POST, so that the primary answers.';
    end if;
    if query !~ '^[0-9a-f]{32}$'
        or pg_catalog.to_regprocedure(pg_catalog.format('unstale.query_%s(jsonb, integer)', query)) is null
    then
        raise exception 'there is no query %', query using errcode = 'UN012', hint = 'Run unstale migration and push.';
    end if;
    execute pg_catalog.format('select unstale.query_%s($1, $2)', query) into result using given, most;
    return result;
end
$$;
comment on function public.unstale_fanout(text, jsonb, integer) is
    'Runs the function that `unstale migration` wrote for one rule''s query; its name holds the hash of what it does.';

create or replace function public.unstale_check() returns jsonb
language sql stable security invoker set search_path = ''
as $$
    select pg_catalog.jsonb_build_object(
        'version', pg_catalog.current_setting('server_version_num')::integer,
        'role', current_user,
        'published', exists (
            select from pg_catalog.pg_publication_tables as p
            where p.pubname = 'supabase_realtime' and p.schemaname = 'public' and p.tablename = 'unstale_wakeup'
        ),
        'readable', pg_catalog.has_table_privilege('public.unstale_wakeup', 'select'),
        'queries', coalesce((
            select pg_catalog.jsonb_agg(pg_catalog.substr(f.proname, 7) order by f.proname)
            from pg_catalog.pg_proc as f
            where f.pronamespace = 'unstale'::pg_catalog.regnamespace and f.proname ~ '^query_[0-9a-f]{32}$'
        ), '[]'),
        'findings', coalesce((
            select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(c.severity, c.subject, c.finding, c.remedy))
            from unstale.check() as c
        ), '[]')
    )
$$;
comment on function public.unstale_check() is 'What unstale doctor asks over HTTPS, as one JSON object.';

revoke all on function
    unstale.run_query(text, text, text[], text[], text, jsonb, integer),
    public.unstale_read(text, text, text, bigint, integer, integer, boolean),
    public.unstale_watches(),
    public.unstale_watch_states(integer[]),
    public.unstale_purge(integer, double precision, bigint),
    public.unstale_position_before(double precision),
    public.unstale_fanout(text, jsonb, integer),
    public.unstale_check()
from public;

do $$
declare
    api_role text;
    called   text;
begin
    -- Older Supabase projects give every new function of public to these roles.
    for api_role in
        select r.rolname from pg_catalog.pg_roles as r where r.rolname in ('anon', 'authenticated', 'service_role')
    loop
        for called in
            select f.oid::pg_catalog.regprocedure::text from pg_catalog.pg_proc as f
            where f.pronamespace = 'public'::pg_catalog.regnamespace
                and f.proname in (
                    'unstale_read', 'unstale_watches', 'unstale_watch_states', 'unstale_purge', 'unstale_position_before',
                    'unstale_fanout', 'unstale_check')
        loop
            if api_role = 'service_role' then
                execute pg_catalog.format('grant execute on function %s to service_role', called);
            else
                execute pg_catalog.format('revoke all on function %s from %I', called, api_role);
            end if;
        end loop;
        if api_role = 'service_role' then
            grant usage on schema unstale to service_role;
            grant select on unstale.watch_versions to service_role;
            grant execute on function
                unstale.read(pg_snapshot, pg_snapshot, xid8, bigint, integer, integer),
                unstale.purge(integer, interval, bigint),
                unstale.position_before(interval),
                unstale.run_query(text, text, text[], text[], text, jsonb, integer),
                unstale.want_wakeups(),
                unstale.purge_wakeups(),
                unstale.watch_states(integer[]),
                unstale.check()
            to service_role;
        end if;
    end loop;
    -- PostgREST looks again at what there is. Where nobody listens, nothing happens.
    perform pg_catalog.pg_notify('pgrst', 'reload schema');
end
$$;
