"""Call database functions over HTTPS through the official client, with POST only."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import httpx
import orjson
from postgrest import APIError
from supabase import AsyncClient, AsyncClientOptions

from unstale.companion.pools.environment import proxy_of
from unstale.companion.pools.no_cookies import no_cookies
from unstale.errors import DatabaseRefused, DatabaseUnavailable, MigrationMissing, SettingError
from unstale.runtime.cancellation import pass_on_cancellation
from unstale_worker.sources.realtime import Target

ATTEMPTS: Final = 2
"""Attempts per call. A keep-alive connection that the server has closed costs one attempt."""
CONNECTIONS: Final = 4
"""Simultaneous connections: a page, the next page, a query, the purge."""
KEEPALIVE: Final = 50.0
"""Seconds an idle connection is kept: below the 60 s after which many servers close theirs."""
TIMED_OUT: Final = "57014"
NOT_PUSHED: Final = frozenset({"PGRST202", "42883", "3F000", "42P01", "42703", "42704"})
"""Codes that mean: the function, or an object it needs, does not exist."""


class Refused(DatabaseUnavailable):
    """The API answered with an error; ``code`` is PostgREST's, Postgres' SQLSTATE, or the HTTP status."""

    def __init__(self, function: str, code: str, message: str) -> None:
        self.function, self.code, self.message = function, code, message
        # A message about a user's query may quote row values, which must not be logged.
        details = f"{code}: {message[:200]}" if message and function != "unstale_fanout" else code
        super().__init__(f"Supabase refused {function} ({details}); the worker tries again")


@dataclass(frozen=True, slots=True)
class Project:
    """A Supabase project and its server key.

    Attributes:
        url: The base URL.
        key: A secret or ``service_role`` key; sent unchanged, never decoded, never shown.
        timeout: Seconds for a connection attempt and between two chunks of an answer.
    """

    url: str
    key: "Key"
    timeout: float = 10.0


class Key:
    """A key that prints as ``***``.

    Raises `SettingError` for characters that are invalid in a header: the error of a library would quote
    the key.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text.strip()
        if not self._text or not self._text.isascii() or not self._text.isprintable() or " " in self._text:
            raise SettingError(
                "SUPABASE_SECRET_KEY is empty or contains characters that no key has (blanks, line ends, "
                "letters beyond ASCII); copy it again (Project settings > API keys)"
            )

    def __repr__(self) -> str:
        return "***"

    @property
    def text(self) -> str:
        """The key itself, for headers only."""
        return self._text


class Rpc:
    """Calls the functions of one project; the first call opens the connections.

    Example:
        >>> rpc = Rpc(Project("https://ref.supabase.co", Key("sb_secret_...")))
        >>> await rpc.call("unstale_watches")
    """

    def __init__(self, project: Project) -> None:
        Target(project.url, project.key.text, schema="public", table="unstale_wakeup")  # validates the URL
        self._project = project
        self._http: httpx.AsyncClient | None = None
        self._client: AsyncClient | None = None
        self.calls = 0
        """Number of answers."""

    def __repr__(self) -> str:
        return f"<Rpc {self._project.url} {'open' if self._client else 'closed'} calls={self.calls}>"

    async def call(self, function: str, **arguments: Any) -> Any:
        """Call a function and return its value.

        Raises `DatabaseUnavailable`, `MigrationMissing`, or `Refused` for other errors of the API.
        """
        try:
            return await self.ask(function, **arguments)
        except Refused as refused:
            if refused.code in NOT_PUSHED:
                raise MigrationMissing(
                    f"the database lacks {function} of this version ({refused.code}); run "
                    "`unstale migration` and push the new files (`supabase db push`)"
                ) from refused
            if refused.code == "42501":
                raise MigrationMissing(
                    f"the key may not call {function}: SUPABASE_SECRET_KEY must be a secret key; if it is "
                    "one, push unstale's migrations, which grant the rights it needs"
                ) from refused
            raise

    async def ask(self, function: str, **arguments: Any) -> Any:
        """Call a function and return its value; raises `Refused` for any error of the API."""
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
        """Close the connections; the next call opens new ones. Safe at any time, also twice."""
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
                cookies=no_cookies(),
            )
            self._client = AsyncClient(
                project.url,
                project.key.text,
                AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=self._http),
            )
        return self._client


async def _key_refused(response: httpx.Response) -> None:
    """Raise if the key was refused.

    This needs a hook, because the client does not keep the HTTP status and a gateway sends no error code.
    """
    if response.status_code not in (401, 403):
        return
    await response.aread()
    try:
        code = str(orjson.loads(response.content).get("code") or "")
    except (ValueError, AttributeError):
        code = ""
    if not code or code.startswith("PGRST30"):
        raise DatabaseRefused(
            f"Supabase refused the key (HTTP {response.status_code} {code}".rstrip()
            + "); check that SUPABASE_SECRET_KEY is right and belongs to SUPABASE_URL"
        )


def _unavailable(error: Exception) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"Supabase does not answer over HTTPS ({type(error).__name__}); check SUPABASE_URL and the network"
    )
