#!/usr/bin/env bash
# Pushes unstale's migrations and the companion's tables and watches to the database of the compose file. What was
# pushed is noted where the official CLI notes it, so that `supabase db push` goes on from there.
set -euo pipefail
export PGHOST=${PGHOST:-db} PGUSER=${PGUSER:-postgres} PGDATABASE=${PGDATABASE:-postgres}
export PGOPTIONS='-c client_min_messages=warning'
migrations=${MIGRATIONS:-/migrations} companion=${COMPANION:-/companion}

run() { psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 "$@"; }

run <<'SQL'
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (version text primary key, statements text[], name text);
create table if not exists supabase_migrations.seed_files (path text primary key, hash text not null);
SQL

# push FILE COUNT INSERT: run the file with the note that it was run, in one transaction.
push() {
    if [ "$(run -At --set file="$1" <<<"$2")" = 0 ]; then
        echo "$1"
        { cat "$1" && echo ";" && echo "$3"; } | run --single-transaction --set file="$1"
    fi
}

version="regexp_replace(:'file', '^.*/([0-9]+)_[^/]*\$', '\\1')"
name="regexp_replace(:'file', '^.*/[0-9]+_([^/]*)\\.sql\$', '\\1')"
migration() {
    push "$1" "select count(*) from supabase_migrations.schema_migrations where version = $version;" \
        "insert into supabase_migrations.schema_migrations (version, name) values ($version, $name);"
}

shopt -s nullglob
for file in "$migrations"/*.sql; do migration "$file"; done
if [ -f "$companion/seed.sql" ]; then
    push "$companion/seed.sql" "select count(*) from supabase_migrations.seed_files where path = 'supabase/seed.sql';" \
        "insert into supabase_migrations.seed_files values ('supabase/seed.sql', md5(:'file'));"
fi
for file in "$companion"/migrations/*.sql; do migration "$file"; done

run --set password="$PGPASSWORD" <<'SQL'
alter role unstale_worker password :'password';
SQL
