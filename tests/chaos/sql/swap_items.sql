-- The table is built again beside itself and takes its name: the new one has no capture.
lock table public.items in access exclusive mode;
create table public.items_next (like public.items including all);
insert into public.items_next select * from public.items;
drop table public.items;
alter table public.items_next rename to items;
grant select on public.items to unstale_worker;
