-- Full text search and generated columns.
create table public.books (
    id serial primary key,
    title text,
    author text,
    description text,
    price numeric(10, 2),
    vat numeric(10, 2) generated always as (price * 0.2) stored,
    fts tsvector generated always as (
        setweight(to_tsvector('english', coalesce(title, '')), 'A') || to_tsvector('english', coalesce(description, ''))
    ) stored
);
create index books_fts on public.books using gin (fts);
insert into public.books (title, author, description, price) values
    ('The Poky Little Puppy', 'Janette Lowrey', E'Puppy is slower than other; \'bigger\' animals.', 5.5),
    ('The Tale of Peter Rabbit', 'Beatrix Potter', 'Rabbit eats ''some'' vegetables; /* not a comment */ -- nor this', 7);
create function public.title_description(books) returns text as $$ select $1.title || ' ' || $1.description; $$
language sql immutable;
create function public.search_books(prefix text) returns setof public.books language plpgsql stable as $$
begin
    return query select * from public.books where to_tsvector('english', title_description(books.*)) @@ to_tsquery(prefix || ':*');
end;
$$;
