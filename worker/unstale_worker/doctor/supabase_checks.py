"""Examines a Supabase project as a worker over HTTPS finds it."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from unstale.errors import MigrationMissing, UnstaleError
from unstale_worker.doctor.database_checks import NEWEST_TESTED, OLDEST
from unstale_worker.doctor.findings import Check, Finding, error, ok, warning
from unstale_worker.doctor.schema_checks import PUSH, SchemaDoctor
from unstale_worker.rules import Rules
from unstale_worker.sources.realtime import RealtimeWakeUps
from unstale_worker.sources.rpc import Project
from unstale_worker.sources.supabase import SupabaseSource

PATIENCE: Final = 10.0
"""Seconds for Realtime to deliver: at the service it takes 1 to 3."""
PLAIN: Final = "Use https, unless nobody else can read on the way."


class Supabase:
    """The checks of one project; `connected` must be entered before `checks` are run."""

    def __init__(self, project: Project, *, rules: Rules | None) -> None:
        self._project, self._rules = project, rules
        self._source = SupabaseSource(project)
        self._said: Mapping[str, Any] = {}

    @asynccontextmanager
    async def connected(self, findings: list[Finding]) -> AsyncIterator[bool]:
        """Yields whether the project's functions answer; adds what that showed to ``findings``."""
        url = urlsplit(self._project.url)
        if url.scheme == "http" and url.hostname not in ("127.0.0.1", "::1", "localhost"):
            findings.append(
                warning("Supabase", "SUPABASE_URL is http: the secret key travels readable", PLAIN)
            )
        try:
            self._said = await self._source.check()
        except MigrationMissing as missing:
            findings.append(error("Supabase", str(missing), PUSH))
            yield False
        except UnstaleError as failure:
            remedy = "Check SUPABASE_URL, SUPABASE_SECRET_KEY and the network."
            findings.append(error("Supabase", str(failure), remedy))
            yield False
        else:
            findings.append(ok("Supabase", f"answers over HTTPS, as {self._said.get('role')}"))
            yield True
        finally:
            await self._source.close()

    def checks(self) -> Sequence[tuple[str, Check]]:
        """Subject and check, in the order they are run."""
        schema = SchemaDoctor(
            self._source,
            self._rules,
            own=self._own_findings,
            queries_run="run, each by a function of this text",
        )
        return (
            ("Postgres", self._server),
            *schema.checks(),
            ("Realtime", self._realtime),
        )

    async def _server(self) -> AsyncIterator[Finding]:
        number = int(self._said["version"]) // 10_000
        if OLDEST <= number <= NEWEST_TESTED:
            yield ok("Postgres", f"version {number}")
        else:
            remedy = f"Versions {OLDEST} to {NEWEST_TESTED} are known to work."
            yield warning("Postgres", f"version {number} was not tested", remedy)

    async def _own_findings(self) -> Sequence[Iterable[str]]:
        findings: Sequence[Iterable[str]] = self._said["findings"]
        return findings

    async def _realtime(self) -> AsyncIterator[Finding]:
        """Whether commits can wake a worker: publication, grant, and a subscription that is tried."""
        if not self._said["published"]:
            finding = (
                "public.unstale_wakeup is not in the publication supabase_realtime: the worker only polls"
            )
            remedy = "Enable Realtime, then run `select unstale.publish_wakeups()` as the schema's owner."
            yield warning("Realtime", finding, remedy)
            return
        if not self._said["readable"]:
            finding = "service_role may not read public.unstale_wakeup: the worker only polls"
            yield warning("Realtime", finding, "Run `grant select on public.unstale_wakeup to service_role`.")
            return
        told = asyncio.Event()
        realtime = RealtimeWakeUps(self._project.url, self._project.key.text, on_hint=told.set)
        async with realtime:
            try:
                async with asyncio.timeout(PATIENCE):
                    await told.wait()
            except TimeoutError:
                finding = (
                    f"delivers nothing within {PATIENCE:.0f} s, so the worker only polls: {realtime.problem}"
                )
                yield warning("Realtime", finding, "See whether Realtime is enabled and its limits allow it.")
            else:
                yield ok("Realtime", "delivers the wake-ups")
