alter table public.items add column if not exists extra text
