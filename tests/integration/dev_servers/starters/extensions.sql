-- Extensions, in schemas of their own and not.
create extension if not exists "uuid-ossp" with schema extensions;
create extension if not exists pgcrypto with schema extensions;
create extension if not exists citext;
create extension if not exists ltree with schema extensions;
create extension if not exists pg_trgm with schema extensions;
create extension if not exists unaccent with schema extensions;
create extension if not exists btree_gist with schema extensions;
create extension if not exists moddatetime schema extensions;
create extension if not exists hstore; create extension if not exists fuzzystrmatch;
create table public.articles (
    id uuid primary key default extensions.uuid_generate_v4(),
    slug citext unique,
    path ltree,
    title text not null,
    attributes hstore,
    secret text default encode(extensions.gen_random_bytes(16), 'hex'),
    digest bytea generated always as (extensions.digest(title, 'sha1')) stored,
    updated_at timestamptz default now()
);
create index articles_title on public.articles using gin (title gin_trgm_ops);
create index articles_path on public.articles using gist (path);
create trigger handle_updated_at before update on public.articles
    for each row execute procedure moddatetime (updated_at);
create table public.bookings (
    room int, during tstzrange, exclude using gist (room with =, during with &&)
);
create function public.slugify(value text) returns text language sql immutable strict as $_$
    select trim(both '-' from regexp_replace(lower(extensions.unaccent(value)), '[^a-z0-9\\-_]+', '-', 'gi'));
$_$;
insert into public.articles (slug, path, title) values (public.slugify('Déjà Vu'), 'top.science', 'abc');
