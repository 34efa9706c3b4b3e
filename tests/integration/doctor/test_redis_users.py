"""The doctor names Redis users that may publish watermarks but not write the state behind them."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis

from servers import Database
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.doctor import Finding, Severity, examine
from workers import settings_for


async def told(database: Database, url: str, tmp_path: Path) -> Finding:
    (tmp_path / "unstale.toml").write_text('[[watch]]\ntable = "t"\nkeys = ["a:{id}"]\n')
    findings = await examine(settings_for(database.worker_dsn, url, config=tmp_path / "unstale.toml"))
    return next(finding for finding in findings if finding.subject == "Redis users")


@pytest.mark.parametrize(
    ("rights", "severity"),
    [
        (("resetchannels", "&*", "-@all", "+publish"), Severity.ERROR),
        (("resetchannels", "&{unstale:0}:invalidations", "~user:*", "+@all"), Severity.ERROR),
        (("allchannels", "~{unstale:0}:log", "+@all"), Severity.ERROR),
        (("resetchannels", "&chat:*", "~*", "+@all"), Severity.OK),
        (("resetchannels", "&{unstale:0}:*", "~{unstale:0}:*", "+@all"), Severity.OK),
        (("resetchannels", "&*", "+@all", "-publish"), Severity.OK),
        (("off", "&*", "+publish"), Severity.OK),
    ],
)
async def test_users_that_may_publish_only_are_named(
    tmp_path: Path, database: Database, rights: tuple[str, ...], severity: Severity
) -> None:
    async with EmbeddedValkey() as valkey, Redis.from_url(valkey.url) as redis:
        await redis.execute_command("ACL", "SETUSER", "chat", "on", ">chat", *rights)
        found = await told(database, valkey.url, tmp_path)
    assert found.severity is severity, found
    assert ("chat" in found.finding) is (severity is Severity.ERROR)


async def test_a_redis_without_a_password_is_a_warning(tmp_path: Path, database: Database) -> None:
    async with EmbeddedValkey() as valkey, Redis.from_url(valkey.url) as redis:
        await redis.execute_command("ACL", "SETUSER", "admin", "on", ">admin", "~*", "&*", "+@all")
        await redis.execute_command("ACL", "SETUSER", "default", "nopass")
        url = valkey.url.replace(f":{valkey.password}@", "admin:admin@")
        found = await told(database, url, tmp_path)
        assert found.severity is Severity.WARNING
        assert "without a password" in found.finding
        await redis.execute_command("ACL", "SETUSER", "default", "resetchannels")
        assert (await told(database, url, tmp_path)).severity is Severity.OK


async def test_a_user_that_may_not_list_users_is_told_what_is_unknown(
    tmp_path: Path, database: Database
) -> None:
    async with EmbeddedValkey() as valkey, Redis.from_url(valkey.url) as redis:
        await redis.execute_command("ACL", "SETUSER", "u", "on", ">u", "~*", "&*", "+@all", "-@admin")
        found = await told(database, valkey.url.replace(f":{valkey.password}@", "u:u@"), tmp_path)
    assert found.severity is Severity.OK
    assert "is unknown here" in found.finding
