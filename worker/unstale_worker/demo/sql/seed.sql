-- $1 users, $2 organizations: every user has three memories and is in one organization.
with numbered as (
    select n from generate_series(1, $1::bigint) as n
), people as (
    insert into profiles (id, name) select n, 'user ' || n from numbered returning id
), companies as (
    insert into organizations (id) select n from generate_series(1, $2::bigint) as n returning id
), remembered as (
    insert into memories (user_id, content)
    select n, 'memory ' || m from numbered, generate_series(1, 3) as m
    returning id
)
select (select count(*) from people), (select count(*) from companies), (select count(*) from remembered)
