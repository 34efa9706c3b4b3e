lock table public.items, public.groups, public.notes, public.note_locks in access exclusive mode
