update profiles set mood = $2, version = nextval('demo_version') where id = $1 returning version
