-- Watch a table. For a user's database, `unstale migration` writes the same call into a file.
select unstale.watch(format('%I.%I', $1::text, $2::text)::regclass, $3::text[], $4::text[])
