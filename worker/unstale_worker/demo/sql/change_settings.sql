update settings set voice = $2 where user_id = $1 returning version
