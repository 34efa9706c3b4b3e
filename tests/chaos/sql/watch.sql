select unstale.watch(pg_catalog.to_regclass(pg_catalog.format('%I.%I', $1::text, $2::text)), $3::text[], $4::text[])
