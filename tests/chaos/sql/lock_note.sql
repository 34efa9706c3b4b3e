select from public.note_locks where id = $1::int for update
