update organizations set plan = $2, version = nextval('demo_version') where id = $1 returning version
