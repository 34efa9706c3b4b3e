lock table public.note_locks in exclusive mode
