create function @extschema@.url_encode(data bytea) returns text language sql immutable
as $$ select translate(encode(data, 'base64'), E'+/=\n', '-_') $$;
create function @extschema@.url_decode(data text) returns bytea language sql immutable
as $$ select decode(translate(data, '-_', '+/') || repeat('=', (4 - length(data) % 4) % 4), 'base64') $$;
create function @extschema@.algorithm_sign(signables text, secret text, algorithm text) returns text language sql immutable
as $$
    select @extschema@.url_encode(@extschema:pgcrypto@.hmac(
        convert_to(signables, 'UTF8'), convert_to(secret, 'UTF8'),
        case algorithm when 'HS256' then 'sha256' when 'HS384' then 'sha384' when 'HS512' then 'sha512' end
    ))
$$;
create function @extschema@.sign(payload json, secret text, algorithm text default 'HS256') returns text
language sql immutable
as $$
    select signables || '.' || @extschema@.algorithm_sign(signables, secret, algorithm)
    from (
        select @extschema@.url_encode(convert_to('{"alg":"' || algorithm || '","typ":"JWT"}', 'UTF8')) || '.'
            || @extschema@.url_encode(convert_to(payload::text, 'UTF8'))
    ) as parts (signables)
$$;
create function @extschema@.verify(token text, secret text, algorithm text default 'HS256')
returns table (header json, payload json, valid boolean) language sql immutable
as $$
    select
        convert_from(@extschema@.url_decode(split_part(token, '.', 1)), 'UTF8')::json,
        convert_from(@extschema@.url_decode(split_part(token, '.', 2)), 'UTF8')::json,
        split_part(token, '.', 3) = @extschema@.algorithm_sign(
            split_part(token, '.', 1) || '.' || split_part(token, '.', 2), secret, algorithm
        )
$$;
