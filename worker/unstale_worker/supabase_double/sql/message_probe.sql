-- Insert a message into channel $1, to see who may read it; its transaction is rolled back.
insert into realtime.messages (topic, extension, event, payload, private)
values ($1::text, 'broadcast', 'probe', '{}', true)
returning id
