alter table public.items alter column touched type integer using touched + 0
