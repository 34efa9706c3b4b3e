"""Calls the database's functions over HTTPS, through the official client: by POST only."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import httpx
import orjson
from postgrest import APIError
from supabase import AsyncClient, AsyncClientOptions

from unstale.companion.pools.environment import proxy_of
from unstale.errors import DatabaseUnavailable, MigrationMissing, SettingError
from unstale.runtime.cancellation import pass_on_cancellation
from unstale_worker.sources.realtime import Target

ATTEMPTS: Final = 2
"""A kept connection that the other side has closed meanwhile costs one attempt, and no more than that."""
CONNECTIONS: Final = 4
"""At the same time: a page, the next one, a query, the purge."""
KEEPALIVE: Final = 50.0
"""Seconds an idle connection is kept: below the 60 s after which many servers close theirs."""
TIMED_OUT: Final = "57014"
NOT_PUSHED: Final = frozenset({"PGRST202", "42883", "3F000", "42P01", "42703", "42704"})
"""The function, or something it needs, is not there."""


class Refused(DatabaseUnavailable):
    """The API answered with an error; ``code`` is PostgREST's, Postgres' SQLSTATE, or the HTTP status."""

    def __init__(self, function: str, code: str, message: str) -> None:
        self.function, self.code, self.message = function, code, message
        # What a query of the user's says may quote row values, which do not belong in a log.
        said = f"{code}: {message[:200]}" if message and function != "unstale_fanout" else code
        super().__init__(f"Supabase refused {function} ({said}); the worker tries again")


@dataclass(frozen=True, slots=True)
class Project:
    """A Supabase project, and the key of its servers.

    Attributes:
        url: Its base URL.
        key: A secret or ``service_role`` key; sent as it is, never decoded, never shown.
        timeout: Seconds for a connection attempt and between two pieces of an answer.
    """

    url: str
    key: "Key"
    timeout: float = 10.0


class Key:
    """A key that prints as ``***``. Raises `SettingError` for what would break a header, and so be quoted."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text.strip()
        if not self._text or not self._text.isascii() or not self._text.isprintable() or " " in self._text:
            raise SettingError(
                "SUPABASE_SECRET_KEY is empty or holds what no key does (blanks, line ends, letters beyond "
                "ASCII); copy it again (Project settings > API keys)"
            )

    def __repr__(self) -> str:
        return "***"

    @property
    def text(self) -> str:
        """The key itself: for headers only."""
        return self._text


class Rpc:
    """One project's functions; connections are opened by the first call.

    Example:
        >>> rpc = Rpc(Project("https://ref.supabase.co", Key("sb_secret_...")))
        >>> await rpc.call("unstale_watches")
    """

    def __init__(self, project: Project) -> None:
        Target(project.url, project.key.text, schema="public", table="unstale_wakeup")  # is it an address?
        self._project = project
        self._http: httpx.AsyncClient | None = None
        self._client: AsyncClient | None = None
        self.calls = 0
        """Answers so far."""

    def __repr__(self) -> str:
        return f"<Rpc {self._project.url} {'open' if self._client else 'closed'} calls={self.calls}>"

    async def call(self, function: str, **arguments: Any) -> Any:
        """The function's value. Raises `DatabaseUnavailable` and `MigrationMissing`, or `Refused` (57014)."""
        try:
            return await self.ask(function, **arguments)
        except Refused as refused:
            if refused.code in NOT_PUSHED:
                raise MigrationMissing(
                    f"the database does not offer {function} of this version ({refused.code}); run `unstale "
                    "migration` and push the new files (`supabase db push`)"
                ) from refused
            if refused.code == "42501":
                raise MigrationMissing(
                    f"the key may not call {function}: SUPABASE_SECRET_KEY has to be a secret key; if "
                    "it is one, push unstale's migrations, which grant what it needs"
                ) from refused
            raise

    async def ask(self, function: str, **arguments: Any) -> Any:
        """The function's value; raises `Refused` for whatever the API answers instead."""
        client = self._open()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with asyncio.timeout(3 * self._project.timeout):
                    answer = await client.rpc(function, arguments).execute()
                self.calls += 1
                return answer.data
            except APIError as error:
                raise Refused(function, str(error.code or ""), error.message or "") from None
            except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                pass_on_cancellation()
                if attempt == ATTEMPTS:
                    raise _unavailable(error) from error
            except (httpx.HTTPError, TimeoutError) as error:
                pass_on_cancellation()
                raise _unavailable(error) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def close(self) -> None:
        """Close the connections; the next call opens new ones. Safe at any moment, also twice."""
        http, self._http, self._client = self._http, None, None
        if http is not None:
            await http.aclose()

    def _open(self) -> AsyncClient:
        if self._client is None:
            project = self._project
            self._http = httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(
                    limits=httpx.Limits(
                        max_connections=CONNECTIONS,
                        max_keepalive_connections=CONNECTIONS,
                        keepalive_expiry=KEEPALIVE,
                    ),
                    proxy=proxy_of(project.url),
                ),
                timeout=httpx.Timeout(project.timeout, connect=min(project.timeout, 5.0)),
                event_hooks={"response": [_key_refused]},
            )
            self._client = AsyncClient(
                project.url,
                project.key.text,
                AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=self._http),
            )
        return self._client


async def _key_refused(response: httpx.Response) -> None:
    """Raise for a refused key: the client keeps no status of an answer, and a gateway sends no code."""
    if response.status_code not in (401, 403):
        return
    await response.aread()
    try:
        code = str(orjson.loads(response.content).get("code") or "")
    except (ValueError, AttributeError):
        code = ""
    if not code or code.startswith("PGRST30"):
        raise DatabaseUnavailable(
            f"Supabase refused the key (HTTP {response.status_code} {code}".rstrip()
            + "); check SUPABASE_SECRET_KEY and that it belongs to SUPABASE_URL"
        )


def _unavailable(error: Exception) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"Supabase does not answer over HTTPS ({type(error).__name__}); check SUPABASE_URL and the network"
    )
