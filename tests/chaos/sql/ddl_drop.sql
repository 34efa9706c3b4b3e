alter table public.items drop column if exists extra
