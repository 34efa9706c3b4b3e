create function @extschema@.uuid_nil() returns uuid language sql immutable parallel safe
as $$ select '00000000-0000-0000-0000-000000000000'::uuid $$;
create function @extschema@.uuid_ns_dns() returns uuid language sql immutable parallel safe
as $$ select '6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid $$;
create function @extschema@.uuid_ns_url() returns uuid language sql immutable parallel safe
as $$ select '6ba7b811-9dad-11d1-80b4-00c04fd430c8'::uuid $$;
create function @extschema@.uuid_ns_oid() returns uuid language sql immutable parallel safe
as $$ select '6ba7b812-9dad-11d1-80b4-00c04fd430c8'::uuid $$;
create function @extschema@.uuid_ns_x500() returns uuid language sql immutable parallel safe
as $$ select '6ba7b814-9dad-11d1-80b4-00c04fd430c8'::uuid $$;
create function @extschema@.uuid_generate_v4() returns uuid language sql volatile parallel safe
as $$ select pg_catalog.gen_random_uuid() $$;
-- 60 bits count 100 ns since 1582-10-15; clock sequence and node are random.
create function @extschema@.uuid_generate_v1mc() returns uuid language sql volatile parallel safe
as $$
    select (
        right(t, 8) || substr(t, 5, 4) || '1' || substr(t, 2, 3) || substr(r, 17, 4) || substr(r, 21, 1) || '3'
        || right(r, 10)
    )::uuid
    from (
        select
            lpad(to_hex(((extract(epoch from clock_timestamp()) + 12219292800) * 10000000)::bigint), 16, '0') as t,
            replace(pg_catalog.gen_random_uuid()::text, '-', '') as r
    ) as parts
$$;
create function @extschema@.uuid_generate_v1() returns uuid language sql volatile parallel safe
as $$ select @extschema@.uuid_generate_v1mc() $$;
create function @extschema@._unstale_uuid_of(hash bytea, version integer) returns uuid language sql immutable
as $$
    select encode(
        set_byte(
            set_byte(substring(hash from 1 for 16), 6, (get_byte(hash, 6) & 15) | (version << 4)),
            8, (get_byte(hash, 8) & 63) | 128
        ), 'hex'
    )::uuid
$$;
create function @extschema@.uuid_generate_v3(namespace uuid, name text) returns uuid language sql immutable
as $$
    select @extschema@._unstale_uuid_of(
        decode(md5(decode(replace(namespace::text, '-', ''), 'hex') || convert_to(name, 'UTF8')), 'hex'), 3
    )
$$;
create function @extschema@._unstale_uuid_sha1(message bytea) returns bytea language plpgsql immutable
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
create function @extschema@.uuid_generate_v5(namespace uuid, name text) returns uuid language sql immutable
as $$
    select @extschema@._unstale_uuid_of(
        @extschema@._unstale_uuid_sha1(decode(replace(namespace::text, '-', ''), 'hex') || convert_to(name, 'UTF8')), 5
    )
$$;
