"""The Valkey servers of a test process: a used one that is as new serves the next test.

A server costs 0.1 s of CPU, most of it for the process that guards it. Emptying one costs 5 ms.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from servers import expect_keys_with_ttl, run_apart
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.dev_servers.installs import RedisProgram

_SAME: Final = ("process_id", "run_id", "role", "connected_slaves", "master_replid", "repl_backlog_active")
"""Fields of INFO that differ if the server was restarted, replicated or was replicated."""


@dataclass(frozen=True, slots=True)
class _Made:
    """Everything about a server that outlives its keys, as far as a test can change it."""

    configuration: dict[str | None, str | None]
    users: list[bytes | str]
    identity: dict[str, Any]
    clients: int
    paused: object


class Valkeys:
    """Lends one server at a time to a test."""

    def __init__(self, program: RedisProgram) -> None:
        self._program: RedisProgram = program
        self._spare: EmbeddedValkey | None = None
        self._new: _Made | None = None

    def take(self) -> EmbeddedValkey:
        """Return a running server without keys, scripts, other clients or changed settings."""
        server, self._spare = self._spare, None
        if server is None:
            server = EmbeddedValkey(program=self._program)
            run_apart(server.__aenter__())
            with _client(server) as client:
                self._new = _look(client)
        return server

    def give_back(self, server: EmbeddedValkey, *, allowed: Collection[str]) -> None:
        """Take a server back; if it runs, every key must have a TTL or be permanent.

        It is emptied for the next test, or ended if the test killed or changed it, or left a client.
        """
        try:
            if run_apart(server.running()):
                expect_keys_with_ttl(server.url, allowed=allowed)
                if self._emptied(server):
                    self._spare = server
        finally:
            if self._spare is not server:
                run_apart(server.close())

    def close(self) -> None:
        """End the spare server."""
        if self._spare is not None:
            run_apart(self._spare.close())

    def _emptied(self, server: EmbeddedValkey) -> bool:
        with suppress(RedisError, OSError), _client(server) as client:
            if _look(client) == self._new:
                client.flushall()
                client.script_flush()
                client.function_flush()
                client.config_resetstat()
                return True
        return False


def _client(server: EmbeddedValkey) -> Redis:
    return Redis.from_url(server.url, retry=Retry(NoBackoff(), 0), socket_timeout=2, decode_responses=True)


def _look(client: Redis) -> _Made:
    found: Any = client.info()
    return _Made(
        configuration=client.config_get("*"),
        users=client.acl_list(),
        identity={name: found[name] for name in _SAME},
        clients=int(found["connected_clients"]),
        paused=found.get("paused_reason"),
    )
