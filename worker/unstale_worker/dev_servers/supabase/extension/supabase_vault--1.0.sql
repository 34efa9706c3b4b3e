create table @extschema@.secrets (
    id uuid primary key default gen_random_uuid(),
    name text,
    description text not null default '',
    secret text not null,
    key_id uuid,
    nonce bytea,
    created_at timestamptz not null default current_timestamp,
    updated_at timestamptz not null default current_timestamp
);
create unique index secrets_name_idx on @extschema@.secrets (name) where name is not null;
create view @extschema@.decrypted_secrets as
select id, name, description, secret, secret as decrypted_secret, key_id, nonce, created_at, updated_at
from @extschema@.secrets;
create function @extschema@.create_secret(
    new_secret text, new_name text default null, new_description text default '', new_key_id uuid default null
) returns uuid language sql
as $$
    insert into @extschema@.secrets (secret, name, description, key_id) values ($1, $2, coalesce($3, ''), $4) returning id
$$;
create function @extschema@.update_secret(
    secret_id uuid, new_secret text default null, new_name text default null, new_description text default null,
    new_key_id uuid default null
) returns void language sql
as $$
    update @extschema@.secrets set
        secret = coalesce($2, secret), name = coalesce($3, name), description = coalesce($4, description),
        key_id = coalesce($5, key_id), updated_at = now()
    where id = $1
$$;
grant usage on schema @extschema@ to postgres, service_role;
grant select, delete on @extschema@.secrets, @extschema@.decrypted_secrets to postgres, service_role;
grant insert, update on @extschema@.secrets to postgres;
revoke execute on all functions in schema @extschema@ from public;
grant execute on all functions in schema @extschema@ to postgres, service_role;
alter function @extschema@.create_secret security definer;
alter function @extschema@.update_secret security definer;
