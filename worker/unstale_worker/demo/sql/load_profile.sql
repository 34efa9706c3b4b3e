select id, name, mood, version from profiles where id = $1
