create function @extschema@.resolve(
    query text, variables jsonb default '{}', "operationName" text default null, extensions jsonb default null
) returns jsonb language sql immutable
as $$ select '{"errors": [{"message": "unstale dev has no GraphQL"}]}'::jsonb $$;
