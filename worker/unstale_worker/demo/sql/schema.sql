-- The demo's own tables: a companion app in small. `version` only grows, so an older row is known as older.
create sequence demo_version;

create table profiles (
    id bigint primary key,
    name text not null,
    mood text not null default 'calm',
    version bigint not null default 0
);
create table memories (
    id bigint generated always as identity primary key,
    user_id bigint not null references profiles,
    content text not null,
    importance integer not null default 1,
    recalled integer not null default 0,
    version bigint not null default 0
);
create index memories_user_id on memories (user_id);
create table organizations (
    id bigint primary key,
    plan text not null default 'free',
    version bigint not null default 0
);
create table members (
    org_id bigint not null references organizations,
    user_id bigint not null references profiles,
    primary key (org_id, user_id)
);
-- A fan-out query reads this one.
grant select on members to unstale_worker;
