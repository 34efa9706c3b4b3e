-- A change that affects no key: its capture writes nothing.
update memories set recalled = recalled + 1 where user_id = $1
