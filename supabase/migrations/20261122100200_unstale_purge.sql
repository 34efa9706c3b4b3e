create or replace function unstale.maintain() returns void language sql as $$ select $$;
