"""Check a Supabase project as a worker over HTTPS sees it."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from unstale.errors import UnstaleError
from unstale_worker.doctor.database_checks import NEWEST_TESTED, OLDEST
from unstale_worker.doctor.findings import Check, Finding, error_of, ok, warning
from unstale_worker.doctor.schema_checks import SchemaChecks
from unstale_worker.rules import Rules
from unstale_worker.sources.realtime import RealtimeWakeUps
from unstale_worker.sources.rpc import Project
from unstale_worker.sources.supabase import SupabaseSource

PATIENCE: Final = 10.0
"""Seconds for Realtime to deliver; the service takes 1 to 3 s."""
USE_HTTPS: Final = "Use https, unless the network is private."


class SupabaseChecks:
    """The checks of one project; enter `connected` before running `checks`."""

    def __init__(self, project: Project, *, rules: Rules | None) -> None:
        self._project, self._rules = project, rules
        self._source = SupabaseSource(project)
        self._answer: Mapping[str, Any] = {}

    @asynccontextmanager
    async def connected(self, findings: list[Finding]) -> AsyncIterator[bool]:
        """Connect; yield True if the project's functions answer. The result is added to ``findings``."""
        url = urlsplit(self._project.url)
        if url.scheme == "http" and url.hostname not in ("127.0.0.1", "::1", "localhost"):
            findings.append(
                warning("Supabase", "SUPABASE_URL is http: the secret key is sent unencrypted", USE_HTTPS)
            )
        try:
            self._answer = await self._source.check()
        except UnstaleError as failure:
            otherwise = "Check SUPABASE_URL, SUPABASE_SECRET_KEY and the network."
            findings.append(error_of("Supabase", failure, otherwise))
            yield False
        else:
            findings.append(ok("Supabase", f"answers over HTTPS, as {self._answer.get('role')}"))
            yield True
        finally:
            await self._source.close()

    def checks(self) -> Sequence[tuple[str, Check]]:
        """Return subject and check, in order of execution."""
        schema = SchemaChecks(
            self._source,
            self._rules,
            own=self._own_findings,
            queries_run="run, each as a function with the current text",
        )
        return (
            ("Postgres", self._server),
            *schema.checks(),
            ("Realtime", self._realtime),
        )

    async def _server(self) -> AsyncIterator[Finding]:
        number = int(self._answer["version"]) // 10_000
        if OLDEST <= number <= NEWEST_TESTED:
            yield ok("Postgres", f"version {number}")
        else:
            remedy = f"Versions {OLDEST} to {NEWEST_TESTED} are tested."
            yield warning("Postgres", f"version {number} is not tested", remedy)

    async def _own_findings(self) -> Sequence[Iterable[str]]:
        findings: Sequence[Iterable[str]] = self._answer["findings"]
        return findings

    async def _realtime(self) -> AsyncIterator[Finding]:
        """Check that commits can wake a worker: publication, grant, and a trial subscription."""
        if not self._answer["published"]:
            finding = (
                "public.unstale_wakeup is not in the publication supabase_realtime: the worker only polls"
            )
            remedy = "Enable Realtime, then run `select unstale.publish_wakeups()` as the schema's owner."
            yield warning("Realtime", finding, remedy)
            return
        if not self._answer["readable"]:
            finding = "service_role may not read public.unstale_wakeup: the worker only polls"
            yield warning("Realtime", finding, "Run `grant select on public.unstale_wakeup to service_role`.")
            return
        hinted = asyncio.Event()
        realtime = RealtimeWakeUps(self._project.url, self._project.key.text, on_hint=hinted.set)
        async with realtime:
            try:
                async with asyncio.timeout(PATIENCE):
                    await hinted.wait()
            except TimeoutError:
                finding = (
                    f"delivers nothing within {PATIENCE:.0f} s, so the worker only polls: {realtime.problem}"
                )
                remedy = "Check that Realtime is enabled and that its limits are not reached."
                yield warning("Realtime", finding, remedy)
            else:
                yield ok("Realtime", "delivers wake-ups")
