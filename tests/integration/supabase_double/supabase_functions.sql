-- Functions of every shape the REST API calls, for the tests of its double. Run by postgres.
create table public.things (id bigint primary key, name text);
grant select, insert, update, delete on public.things to service_role;
create function public.who() returns jsonb language sql stable set search_path = '' as
    $$ select jsonb_build_object('role', current_user, 'claim', current_setting('request.jwt.claims')::jsonb ->> 'role') $$;
create function public.add(a int, b int default 10) returns int language sql immutable as $$ select a + b $$;
create function public.whole(jsonb) returns jsonb language sql as $$ select $1 -> 'x' $$;
create function public.nothing() returns void language sql as $$ select null::void $$;
create function public.numbers(n int) returns setof int language sql as $$ select generate_series(1, n) $$;
create function public.pairs(n int) returns table (a int, b text) language sql as
    $$ select i, 'x' || i from generate_series(1, n) as i $$;
create function public.one_thing() returns public.things language sql as $$ select 7::bigint, 'seven' $$;
create function public.twice(a int) returns int language sql as $$ select a $$;
create function public.twice(a text) returns int language sql as $$ select 1 $$;
create function public.put(name text) returns bigint language sql volatile as
    $$ insert into public.things select coalesce(max(id), 0) + 1, put.name from public.things returning id $$;
create function public.count_things() returns bigint language sql stable as $$ select count(*) from public.things $$;
create function public.writes_though_stable() returns int language plpgsql stable as
    $$ begin perform public.put('x'); return 1; end $$;
create function public.clear() returns void language sql as $$ delete from public.things $$;
create function public.clear_all() returns void language sql as $$ delete from public.things where true $$;
create function public.clear_by_another() returns void language plpgsql as $$ begin perform public.clear(); end $$;
create function public.sleeps(seconds float) returns void language sql as $$ select pg_sleep(seconds) $$;
create function public.complains() returns void language plpgsql as
    $$ begin raise exception 'no' using errcode = 'UNS01', detail = 'why', hint = 'do'; end $$;
revoke execute on function public.put(text), public.who() from public;
grant execute on function public.put(text), public.who() to service_role;
