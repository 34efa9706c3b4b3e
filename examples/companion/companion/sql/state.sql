-- $1 user: where the conversation stands.
select user_id, stage, topic, version from public.state where user_id = $1
