-- A change that alters no cached value: the greeting is invalidated, and its inputs are unchanged.
update profiles set last_seen = now() where id = $1
