truncate table public.notes
