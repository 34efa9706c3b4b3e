-- Insert $1 users and $2 organizations. Each user has settings, a state, three memories and one organization.
with numbered as (
    select n from generate_series(1, $1::bigint) as n
), companies as (
    insert into organizations (id) select n from generate_series(1, $2::bigint) as n
    on conflict (id) do nothing returning id
), people as (
    insert into profiles (id, name)
    select n, initcap(
        (array['ada','ben','chloe','dora','emil','fay','gus','hana','ivo','june','kai','lena'])[1 + n % 12]
    ) || ' ' || n
    from numbered
    on conflict (id) do nothing returning id
), chosen as (
    insert into settings (user_id) select id from people returning user_id
), met as (
    insert into state (user_id) select id from people returning user_id
), remembered as (
    insert into memories (user_id, content, importance)
    select id, (array['likes quiet mornings', 'plays the harp', 'runs marathons', 'misses the sea',
        'learns to bake', 'has a cat named Byte', 'reads on the train'])[1 + (id + m * 2) % 7], m
    from people, generate_series(1, 3) as m
    returning id
), joined as (
    insert into members (org_id, user_id) select id % $2::bigint + 1, id from people returning user_id
)
select (select count(*) from people), (select count(*) from companies), (select count(*) from joined),
    (select count(*) from chosen), (select count(*) from met), (select count(*) from remembered)
