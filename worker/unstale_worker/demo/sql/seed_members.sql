-- $1 users, $2 organizations.
insert into members (org_id, user_id) select n % $2::bigint + 1, n from generate_series(1, $1::bigint) as n
