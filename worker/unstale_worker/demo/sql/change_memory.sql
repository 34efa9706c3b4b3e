-- Change one of the user's memories.
update memories set content = $2, importance = importance % 5 + 1
where id = (select id from memories where user_id = $1 order by id offset $3 limit 1)
returning version
