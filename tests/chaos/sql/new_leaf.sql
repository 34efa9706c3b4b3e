-- A leaf is built again below its parent: $1 parent, $2 leaf, $3 first id, $4 the id after its last one.
select pg_catalog.format(
    'alter table public.%1$I detach partition public.%2$I;'
    'create table public.%3$I partition of public.%1$I for values from (%4$s) to (%5$s);'
    'insert into public.%3$I select * from public.%2$I;'
    'drop table public.%2$I;'
    'alter table public.%3$I rename to %2$I',
    $1::text, $2::text, $2::text || '_next', $3::int, $4::int
)
