-- A job that posts to an edge function, its key in the vault, and a webhook.
create extension if not exists pg_cron with schema pg_catalog;
create extension if not exists "pg_net" with schema "extensions" version '0.7.1';
grant usage on schema cron to postgres;
grant all privileges on all tables in schema cron to postgres;
select vault.create_secret('https://project.example', 'project_url');
select vault.create_secret('a-key', 'service_key', 'for the job');
create table public.jobs (id bigserial primary key, payload jsonb, done_at timestamptz);
select cron.schedule(
    'call-function', '* * * * *',
    $$
    select net.http_post(
        url := (select decrypted_secret from vault.decrypted_secrets where name = 'project_url') || '/functions/v1/job',
        headers := jsonb_build_object(
            'Content-type', 'application/json',
            'Authorization', 'Bearer ' || (select decrypted_secret from vault.decrypted_secrets where name = 'service_key')
        ),
        body := concat('{"time": "', now(), '"}')::jsonb
    ) as request_id;
    $$
);
select cron.schedule('0 3 * * *', 'delete from public.jobs where done_at < now() - interval ''7 days''');
create trigger on_job after insert on public.jobs for each row
    execute function supabase_functions.http_request(
        'https://project.example/functions/v1/hook', 'POST', '{"Content-Type":"application/json"}', '{}', '1000'
    );
insert into public.jobs (payload) values ('{"a": 1}');
select cron.unschedule('call-function');
