update organizations set plan = $2 where id = $1 returning version
