-- Users of a seed, with hashed passwords.
create table public.members (id uuid primary key references auth.users, email text);
insert into auth.users (
    instance_id, id, aud, role, email, encrypted_password, email_confirmed_at, raw_app_meta_data, raw_user_meta_data,
    created_at, updated_at, confirmation_token, email_change, email_change_token_new, recovery_token
) values (
    '00000000-0000-0000-0000-000000000000', uuid_generate_v4(), 'authenticated', 'authenticated', 'grace@example.com',
    crypt('password123', gen_salt('bf')), current_timestamp, '{"provider":"email","providers":["email"]}', '{}',
    current_timestamp, current_timestamp, '', '', '', ''
);
insert into auth.identities (id, user_id, provider_id, identity_data, provider, last_sign_in_at, created_at, updated_at)
select uuid_generate_v4(), id, id, format('{"sub":"%s","email":"%s"}', id::text, email)::jsonb, 'email',
    current_timestamp, current_timestamp, current_timestamp
from auth.users;
insert into public.members select id, email from auth.users where encrypted_password = crypt('password123', encrypted_password);
create or replace view public.people with (security_invoker = on) as select id, email from public.members;
