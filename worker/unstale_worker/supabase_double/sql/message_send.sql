-- Insert a message as the current role; it fails if no policy lets the role send to channel $1.
insert into realtime.messages (topic, extension, event, payload, private)
values ($1::text, 'broadcast', 'probe', '{}', true)
