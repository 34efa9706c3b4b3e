-- Many tenants: an enum, functions with their owner's rights, a schema of its own, claims in app_metadata.
create schema if not exists private;
grant usage on schema private to authenticated;
create type public.member_role as enum ('owner', 'admin', 'member');
create table public.organizations (
    id uuid primary key default uuid_generate_v4(),
    name text not null,
    slug text not null unique,
    settings jsonb not null default '{}'::jsonb
);
create table public.memberships (
    organization_id uuid not null references public.organizations on delete cascade,
    user_id uuid not null references auth.users on delete cascade,
    role public.member_role not null default 'member',
    invited_by uuid references auth.users,
    primary key (organization_id, user_id)
);
create or replace function private.has_role(org uuid, wanted public.member_role[]) returns boolean
language sql stable security definer set search_path = ''
as $$
    select exists (
        select 1 from public.memberships m
        where m.organization_id = org and m.user_id = auth.uid() and m.role = any (wanted)
    );
$$;
create function public.current_org() returns uuid language sql stable
return ((auth.jwt() -> 'app_metadata' ->> 'org_id')::uuid);
create function public.leave(org uuid) returns void language sql security definer set search_path = ''
begin atomic
    delete from public.memberships where organization_id = org and user_id = auth.uid();
    update public.organizations set settings = case when id = org then settings - 'last' else settings end where id = org;
end;
alter table public.organizations enable row level security;
alter table public.memberships enable row level security;
create policy read on public.organizations for select to authenticated
    using (private.has_role(id, array['owner', 'admin', 'member']::public.member_role[]) or id = public.current_org());
create policy mfa on public.organizations as restrictive for update to authenticated using (
    array[(select auth.jwt() ->> 'aal')] <@ (
        select case when count(id) > 0 then array['aal2'] else array['aal1', 'aal2'] end
        from auth.mfa_factors where auth.uid() = user_id and status = 'verified'
    )
);
alter default privileges in schema public revoke execute on functions from anon;
