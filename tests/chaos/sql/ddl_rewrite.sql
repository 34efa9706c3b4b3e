alter table public.items alter column touched type bigint using touched + 0
