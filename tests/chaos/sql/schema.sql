-- The tables of the chaos run. Every write takes a fresh version and tells the journal in the same transaction, under
-- a lock of the row: so the journal holds what was committed and nothing else, in the order of each row's commits.
create sequence public.versions;

create table public.journal (
    id      bigint generated always as identity primary key,
    "row"   text    not null,
    version bigint  not null,
    present boolean not null
);

create table public.groups (
    id      integer primary key,
    version bigint not null
);

create table public.items (
    id       integer primary key,
    group_id integer not null,
    version  bigint  not null,
    payload  text    not null default '',
    touched  integer not null default 0
);

-- Partitions below partitions: their leaves are built again while the run goes on.
create table public.notes (
    id      integer primary key,
    version bigint not null
) partition by range (id);
create table public.notes_low partition of public.notes for values from (minvalue) to (20) partition by range (id);
create table public.notes_low_first partition of public.notes_low for values from (0) to (10);
create table public.notes_low_second partition of public.notes_low for values from (10) to (20);
create table public.notes_high partition of public.notes for values from (20) to (maxvalue) partition by range (id);
create table public.notes_high_first partition of public.notes_high for values from (20) to (30);
create table public.notes_high_second partition of public.notes_high for values from (30) to (40);

-- What a writer of a note locks first, as the note itself may not exist.
create table public.note_locks (
    id integer primary key
);

-- For the fan-out query of the rules.
grant select on public.items to unstale_worker;
-- For the loader of the rules.
grant select on public.notes to unstale_worker;
