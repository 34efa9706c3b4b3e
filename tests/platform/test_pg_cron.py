"""pg_cron, where it exists: it is told to purge, once, and what it is told runs."""

from __future__ import annotations

from services.programs import pg_cron
from unstale_worker.dev_servers import EmbeddedPostgres, migrate, migrations_folder
from workers import connected

PURGE = next(migrations_folder().glob("*_unstale_purge.sql"))
SETTINGS = {
    "fsync": "off",
    "shared_preload_libraries": "pg_cron",
    "cron.database_name": "postgres",
    "cron.use_background_workers": "on",  # as on the platform: no password is needed
}

AN_HOUR_AGO = (
    "create table public.people (id int primary key)",
    "select unstale.watch('public.people', '{id}')",
    "select unstale.purge(1)",
    "update unstale.snapshots set taken_at = taken_at - interval '61 minutes'",
)


async def test_it_is_told_to_purge_once_and_does() -> None:
    pg_cron()
    # The extension is Debian's, for Debian's own Postgres.
    async with EmbeddedPostgres(version="15", settings=SETTINGS) as server:
        await server.create_supabase_roles()
        async with connected(server.superuser_dsn) as admin:
            # As the platform does for whoever enables the extension.
            await admin.execute("create extension pg_cron; grant usage on schema cron to postgres")
            await admin.execute("grant all on all tables in schema cron to postgres")
        await migrate(server, database="postgres")

        async with connected(server.dsn()) as project:
            await project.execute(PURGE.read_text())  # pushed again: still one job
            jobs = await project.fetch("select * from cron.job")
            assert [(job["jobname"], job["schedule"], job["active"]) for job in jobs] == [
                ("unstale-purge", "* * * * *", True)
            ]
            assert jobs[0]["username"] == "postgres"
            # What it is told removes what is old. (It looks at the clock once a minute: too long for a test.)
            for statement in AN_HOUR_AGO:
                await project.execute(statement)
            assert await project.fetchval("select count(*) from unstale.outbox") == 1
            assert await project.fetchval(jobs[0]["command"]) == 1

            await project.execute("select cron.unschedule('unstale-purge')")  # as docs/operations.md says
            assert await project.fetchval("select count(*) from cron.job") == 0
