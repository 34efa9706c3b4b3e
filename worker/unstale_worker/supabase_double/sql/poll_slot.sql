-- The next changes of slot $1, whole transactions, about $3 rows at most, of the tables of publication $2.
select data
from pg_catalog.pg_logical_slot_get_binary_changes(
    $1::name, null, $3::integer, 'proto_version', '1', 'publication_names', $2::text
)
