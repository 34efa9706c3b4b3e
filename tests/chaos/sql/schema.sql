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

create table public.notes (
    id      integer primary key,
    version bigint not null
);

-- What a writer of a note locks first, as the note itself may not exist.
create table public.note_locks (
    id integer primary key
);

-- For the fan-out query of the rules.
grant select on public.items to unstale_worker;
-- For the loader of the rules.
grant select on public.notes to unstale_worker;
