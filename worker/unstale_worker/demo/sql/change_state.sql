-- Advance the user's conversation.
update state set stage = stage % 9 + 1, topic = $2 where user_id = $1 returning version
