-- What PostgREST sets for one request: role $1, claims $2, the search path, and the role's own timeout $3.
select
    pg_catalog.set_config('search_path', '"public", "extensions"', true),
    pg_catalog.set_config('request.jwt.claims', $2::text, true),
    pg_catalog.set_config('statement_timeout', $3::text, true),
    pg_catalog.set_config('role', $1::text, true)
