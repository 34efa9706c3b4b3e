"""Over HTTPS the service must prove who it is before it gets the key."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from servers import eventually
from supabase_double import SupabaseDouble
from wakeups.realtime_stage import FAST, listening


def encrypted(authority: trustme.CA, *, name: str = "127.0.0.1") -> SupabaseDouble:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return SupabaseDouble(tls=context)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """The only one that is trusted."""
    authority = trustme.CA()
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return authority


async def test_a_trusted_service_is_heard(authority: trustme.CA) -> None:
    async with encrypted(authority) as project, listening(project) as stage:
        assert project.url.startswith("https://")
        await stage.hears_a_change()


@pytest.mark.parametrize("wrong", ["authority", "name"])
async def test_any_other_does_not_get_the_key(authority: trustme.CA, wrong: str) -> None:
    double = encrypted(trustme.CA()) if wrong == "authority" else encrypted(authority, name="db.example")
    async with double as project, listening(project, timing=FAST, ready=False) as stage:
        await eventually(lambda: stage.wakeups.attempts >= 3)
        assert "CERTIFICATE_VERIFY_FAILED" in stage.wakeups.problem
        assert project.realtime.upgrades == 0
