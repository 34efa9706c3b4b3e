-- Watch a table: what `unstale migration` writes into a file for a database of one's own.
select unstale.watch(format('%I.%I', $1::text, $2::text)::regclass, $3::text[], $4::text[])
