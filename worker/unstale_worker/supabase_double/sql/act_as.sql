-- Until the end of the transaction: be role $1 with claims $2.
select
    pg_catalog.set_config('request.jwt.claims', $2::text, true),
    pg_catalog.set_config('role', $1::text, true)
