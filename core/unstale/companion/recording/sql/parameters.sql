-- How many parameters the prepared statement has.
select coalesce(cardinality(parameter_types), 0) from pg_catalog.pg_prepared_statements where name = 'unstale_recording'
