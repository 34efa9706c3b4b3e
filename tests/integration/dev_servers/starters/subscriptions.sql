-- Subscriptions of a payment provider.
create table public.customers (id uuid references auth.users not null primary key, stripe_customer_id text);
alter table public.customers enable row level security;
create table public.products (
    id text primary key, active boolean, name text, description text, image text, metadata jsonb
);
alter table products enable row level security;
create policy "Allow public read-only access." on products for select using (true);
create type pricing_type as enum ('one_time', 'recurring');
create type pricing_plan_interval as enum ('day', 'week', 'month', 'year');
create table public.prices (
    id text primary key,
    product_id text references products,
    unit_amount bigint,
    currency text check (char_length(currency) = 3),
    type pricing_type,
    interval pricing_plan_interval,
    interval_count integer,
    metadata jsonb
);
create type subscription_status as enum ('trialing', 'active', 'canceled', 'incomplete', 'past_due', 'unpaid');
-- A value that is used in the same file: Postgres allows this after a commit only.
alter type subscription_status add value 'paused';
create table public.subscriptions (
    id text primary key,
    user_id uuid references auth.users not null,
    status subscription_status default 'paused',
    price_id text references prices,
    cancel_at_period_end boolean,
    created timestamp with time zone default timezone('utc'::text, now()) not null
);
create policy "Can only view own subs data." on subscriptions for select using (auth.uid() = user_id);
create index concurrently if not exists subscriptions_user on public.subscriptions (user_id);
drop publication if exists supabase_realtime;
create publication supabase_realtime for table products, prices;
vacuum analyze public.products;
