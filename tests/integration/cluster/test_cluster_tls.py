"""A cluster reached by TLS: the named node and the node that has the slot are both verified."""

import ssl
from pathlib import Path
from urllib.parse import quote

import trustme

from servers import Database, eventually
from servers.tls_front import TlsFront
from unstale import Cache
from unstale_worker.dev_servers import EmbeddedValkey
from workers import LONG_LEASE, SCHEMA, connected, redis_at, running_worker


async def test_every_connection_is_encrypted(database: Database, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    async with EmbeddedValkey(cluster=True) as server, connected(database.dsn) as db:
        await db.execute(SCHEMA)
        with (
            TlsFront(server.port, context, plain=False) as named,
            TlsFront(server.port, context, plain=False) as announced,
        ):
            async with redis_at(server.url.partition("?")[0]) as redis:
                await redis.config_set("cluster-announce-port", announced.port)
            url = f"rediss://:{server.password}@127.0.0.1:{named.port}?cluster=true"
            trusting = f"{url}&ssl_ca_certs={quote(str(file))}"
            async with (
                running_worker(database.dsn, trusting, redis_timeout=20, **LONG_LEASE),
                Cache.from_env(env_file=None, redis_url=trusting, redis_timeout=20, max_silence=60) as cache,
                Cache.from_env(env_file=None, redis_url=url, redis_timeout=20) as doubting,
            ):
                await eventually(lambda: cache.attached, message="attached by TLS")
                assert await cache.get_or_load("user:1:profile", lambda: "a") == "a"
                assert cache.counters().fills == 1
                assert not doubting.attached
            assert named.encrypted > 0
            assert announced.encrypted >= 3  # the worker's, the cache's subscription and its values
