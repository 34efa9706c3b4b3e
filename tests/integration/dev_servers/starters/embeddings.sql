-- Documents with embeddings.
create extension if not exists vector with schema extensions;
create table public.documents (
    id bigserial primary key, content text, metadata jsonb, embedding extensions.vector(3)
);
create index on public.documents using hnsw (embedding vector_ip_ops);
create or replace function public.match_documents(
    query_embedding vector(3), match_count int default null, filter jsonb default '{}'
) returns table (id bigint, content text, metadata jsonb, similarity float)
language plpgsql as $$
#variable_conflict use_column
begin
    return query
    select id, content, metadata, 1 - (documents.embedding <=> query_embedding) as similarity
    from documents where metadata @> filter order by documents.embedding <=> query_embedding limit match_count;
end;
$$;
insert into public.documents (content, metadata, embedding) values ('hello', '{}', '[1,0,0]'), ('bye', '{}', '[0,1,0]');
