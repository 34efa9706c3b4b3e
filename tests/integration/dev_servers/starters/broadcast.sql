-- Broadcast from the database with policies on realtime.messages.
create table public.rooms (id uuid primary key default gen_random_uuid(), topic text not null unique);
create table public.rooms_users (
    room_id uuid references public.rooms on delete cascade, user_id uuid references auth.users, primary key (room_id, user_id)
);
create table public.posts (id bigserial primary key, room_id uuid references public.rooms, content text);
create policy "members receive" on realtime.messages for select to authenticated using (
    exists (
        select 1 from public.rooms_users ru join public.rooms r on r.id = ru.room_id
        where ru.user_id = (select auth.uid()) and r.topic = (select realtime.topic())
            and realtime.messages.extension in ('broadcast', 'presence')
    )
);
create policy "members send" on realtime.messages for insert to authenticated with check (
    realtime.messages.extension in ('broadcast')
);
create function public.room_changes() returns trigger security definer language plpgsql set search_path = '' as $$
begin
    perform realtime.broadcast_changes(
        'room:' || coalesce(new.room_id, old.room_id)::text, tg_op, tg_op, tg_table_name, tg_table_schema, new, old
    );
    perform realtime.send(jsonb_build_object('hello', 'world'), 'greeting', 'lobby', false);
    return null;
end;
$$;
create trigger posts_changes after insert or update or delete on public.posts
    for each row execute function public.room_changes();
insert into public.rooms (topic) values ('one');
insert into public.posts (room_id, content) select id, 'hi' from public.rooms;
