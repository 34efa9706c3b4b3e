-- $1 user: who that is.
select id as user_id, name, mood, version from public.profiles where id = $1
