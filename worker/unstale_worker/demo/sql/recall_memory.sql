-- A change that no rule wants: its capture writes nothing.
update memories set recalled = recalled + 1 where user_id = $1
