-- Passwords for the roles that the image creates without one.
\set pgpass `echo "$PGPASSWORD"`
alter user authenticator with password :'pgpass';
alter user supabase_admin with password :'pgpass';
