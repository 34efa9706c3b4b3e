update profiles set mood = $2 where id = $1 returning version
