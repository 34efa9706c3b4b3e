create function @extschema@._unstale_sha1(message bytea) returns bytea language plpgsql immutable
as $$
declare
    mask constant bigint := 4294967295;
    size constant integer := length(message);
    padded bytea := message || '\x80'::bytea
        || decode(repeat('00', (119 - size % 64) % 64), 'hex') || int8send(size::bigint * 8);
    w bigint[];
    h bigint[] := array[1732584193, 4023233417, 2562383102, 271733878, 3285377520];
    a bigint; b bigint; c bigint; d bigint; e bigint; f bigint; k bigint; t bigint;
begin
    for block in 0 .. length(padded) / 64 - 1 loop
        for i in 0 .. 79 loop
            if i < 16 then
                w[i] := (get_byte(padded, block * 64 + i * 4)::bigint << 24)
                    | (get_byte(padded, block * 64 + i * 4 + 1) << 16)
                    | (get_byte(padded, block * 64 + i * 4 + 2) << 8)
                    | get_byte(padded, block * 64 + i * 4 + 3);
            else
                t := w[i - 3] # w[i - 8] # w[i - 14] # w[i - 16];
                w[i] := ((t << 1) | (t >> 31)) & mask;
            end if;
        end loop;
        a := h[1]; b := h[2]; c := h[3]; d := h[4]; e := h[5];
        for i in 0 .. 79 loop
            if i < 20 then
                f := (b & c) | ((~b & mask) & d); k := 1518500249;
            elsif i < 40 then
                f := b # c # d; k := 1859775393;
            elsif i < 60 then
                f := (b & c) | (b & d) | (c & d); k := 2400959708;
            else
                f := b # c # d; k := 3395469782;
            end if;
            t := ((((a << 5) | (a >> 27)) & mask) + f + e + k + w[i]) & mask;
            e := d; d := c; c := ((b << 30) | (b >> 2)) & mask; b := a; a := t;
        end loop;
        h := array[(h[1] + a) & mask, (h[2] + b) & mask, (h[3] + c) & mask, (h[4] + d) & mask, (h[5] + e) & mask];
    end loop;
    return int4send((h[1] - (h[1] >> 31 << 32))::integer) || int4send((h[2] - (h[2] >> 31 << 32))::integer)
        || int4send((h[3] - (h[3] >> 31 << 32))::integer) || int4send((h[4] - (h[4] >> 31 << 32))::integer)
        || int4send((h[5] - (h[5] >> 31 << 32))::integer);
end
$$;
create function @extschema@.gen_random_uuid() returns uuid language sql volatile parallel safe
as $$ select pg_catalog.gen_random_uuid() $$;
create function @extschema@.digest(data bytea, type text) returns bytea language plpgsql immutable strict parallel safe
as $$
begin
    return case lower(type)
        when 'md5' then decode(md5(data), 'hex')
        when 'sha1' then @extschema@._unstale_sha1(data)
        when 'sha224' then sha224(data)
        when 'sha256' then sha256(data)
        when 'sha384' then sha384(data)
        when 'sha512' then sha512(data)
    end;
end
$$;
create function @extschema@.digest(data text, type text) returns bytea language sql immutable strict parallel safe
as $$ select @extschema@.digest(convert_to(data, 'UTF8'), type) $$;
create function @extschema@.hmac(data bytea, key bytea, type text) returns bytea
language plpgsql immutable strict parallel safe
as $$
declare
    block constant integer := case when lower(type) in ('sha384', 'sha512') then 128 else 64 end;
    inner_pad bytea := '';
    outer_pad bytea := '';
begin
    if length(key) > block then
        key := @extschema@.digest(key, type);
    end if;
    key := key || decode(repeat('00', block - length(key)), 'hex');
    inner_pad := key;
    outer_pad := key;
    for i in 0 .. block - 1 loop
        inner_pad := set_byte(inner_pad, i, get_byte(key, i) # 54);
        outer_pad := set_byte(outer_pad, i, get_byte(key, i) # 92);
    end loop;
    return @extschema@.digest(outer_pad || @extschema@.digest(inner_pad || data, type), type);
end
$$;
create function @extschema@.hmac(data text, key text, type text) returns bytea language sql immutable strict parallel safe
as $$ select @extschema@.hmac(convert_to(data, 'UTF8'), convert_to(key, 'UTF8'), type) $$;
create function @extschema@.gen_random_bytes(count integer) returns bytea language plpgsql volatile strict parallel safe
as $$
declare
    bytes bytea := '';
begin
    if count not between 1 and 1024 then
        raise exception 'Length not in range' using errcode = 'external_routine_invocation_exception';
    end if;
    while length(bytes) < count loop
        bytes := bytes || sha256(uuid_send(pg_catalog.gen_random_uuid()) || uuid_send(pg_catalog.gen_random_uuid()));
    end loop;
    return substring(bytes from 1 for count);
end
$$;
-- Salts and hashes of the stand-in begin with $unstale$: they are not bcrypt, and no other program can check them.
create function @extschema@.gen_salt(type text, rounds integer default 0) returns text
language sql volatile strict parallel safe
as $$ select '$unstale$' || encode(@extschema@.gen_random_bytes(12), 'hex') || '$' $$;
create function @extschema@.crypt(password text, salt text) returns text language plpgsql immutable strict parallel safe
as $$
begin
    if salt not like '$unstale$%$%' then
        raise exception 'unstale dev cannot check a password whose hash begins with %: its pgcrypto is a stand-in',
            left(salt, 4) using errcode = 'feature_not_supported';
    end if;
    salt := '$unstale$' || split_part(salt, '$', 3) || '$';
    return salt || encode(sha256(convert_to(salt || password, 'UTF8')), 'hex');
end
$$;
-- Encryption needs a library that the stand-in has not.
create function @extschema@.encrypt(data bytea, key bytea, type text) returns bytea language plpgsql stable
as $$ begin raise exception 'unstale dev has no encrypt: its pgcrypto is a stand-in' using errcode = 'feature_not_supported'; end $$;
create function @extschema@.decrypt(data bytea, key bytea, type text) returns bytea language plpgsql stable
as $$ begin raise exception 'unstale dev has no decrypt: its pgcrypto is a stand-in' using errcode = 'feature_not_supported'; end $$;
create function @extschema@.encrypt_iv(data bytea, key bytea, iv bytea, type text) returns bytea language plpgsql stable
as $$ begin raise exception 'unstale dev has no encrypt_iv: its pgcrypto is a stand-in' using errcode = 'feature_not_supported'; end $$;
create function @extschema@.decrypt_iv(data bytea, key bytea, iv bytea, type text) returns bytea language plpgsql stable
as $$ begin raise exception 'unstale dev has no decrypt_iv: its pgcrypto is a stand-in' using errcode = 'feature_not_supported'; end $$;
create function @extschema@.pgp_sym_encrypt(data text, psw text, options text default '') returns bytea language plpgsql stable
as $$ begin raise exception 'unstale dev has no pgp_sym_encrypt: its pgcrypto is a stand-in' using errcode = 'feature_not_supported'; end $$;
create function @extschema@.pgp_sym_decrypt(msg bytea, psw text, options text default '') returns text language plpgsql stable
as $$ begin raise exception 'unstale dev has no pgp_sym_decrypt: its pgcrypto is a stand-in' using errcode = 'feature_not_supported'; end $$;
create function @extschema@.pgp_sym_encrypt_bytea(data bytea, psw text, options text default '') returns bytea language plpgsql stable
as $$ begin raise exception 'unstale dev has no pgp_sym_encrypt_bytea: its pgcrypto is a stand-in' using errcode = 'feature_not_supported'; end $$;
create function @extschema@.pgp_sym_decrypt_bytea(msg bytea, psw text, options text default '') returns bytea language plpgsql stable
as $$ begin raise exception 'unstale dev has no pgp_sym_decrypt_bytea: its pgcrypto is a stand-in' using errcode = 'feature_not_supported'; end $$;
create function @extschema@.pgp_pub_encrypt(data text, key bytea, options text default '') returns bytea language plpgsql stable
as $$ begin raise exception 'unstale dev has no pgp_pub_encrypt: its pgcrypto is a stand-in' using errcode = 'feature_not_supported'; end $$;
create function @extschema@.pgp_pub_decrypt(msg bytea, key bytea, psw text default '', options text default '') returns text language plpgsql stable
as $$ begin raise exception 'unstale dev has no pgp_pub_decrypt: its pgcrypto is a stand-in' using errcode = 'feature_not_supported'; end $$;
