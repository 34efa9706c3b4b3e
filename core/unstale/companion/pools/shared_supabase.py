"""A Supabase client that refuses to sign in a user, because all users share it."""

from typing import Any, Final, NoReturn

from postgrest import AsyncPostgrestClient
from supabase import ASupabaseAuthClient, AsyncClient, AsyncClientOptions

from unstale.errors import ConfigurationError

REMEDY: Final = (
    "a Supabase client of the pool is shared by all users, so no user can be signed in on it. To act for one "
    "user, use `(await pool.supabase()).schema('public').auth(token)`, or a client that you make for that "
    "user with `supabase.acreate_client`"
)


class SharedClient(AsyncClient):
    """A client whose credentials cannot be replaced by those of a user; raises `ConfigurationError`."""

    def __init__(self, url: str, key: str, options: AsyncClientOptions) -> None:
        super().__init__(url, key, options)
        self.realtime.set_auth = _refuse  # type: ignore[assignment]  # all channels would use the user's token

    @staticmethod
    def _init_supabase_auth_client(auth_url: str, client_options: Any, *_: Any, **__: Any) -> Any:
        return _SharedAuth(
            url=auth_url,
            headers=client_options.headers,
            auto_refresh_token=False,
            persist_session=False,
            storage=client_options.storage,
            flow_type=client_options.flow_type,
            http_client=client_options.httpx_client,
        )

    @staticmethod
    def _init_postgrest_client(
        rest_url: str,
        headers: dict[str, str],
        schema: str,
        *_: Any,
        http_client: Any = None,
        retry_enabled: bool = True,
        **__: Any,
    ) -> Any:
        return _SharedRest(
            rest_url, headers=headers, schema=schema, http_client=http_client, retry_enabled=retry_enabled
        )


class _SharedAuth(ASupabaseAuthClient):
    async def _save_session(self, session: object) -> NoReturn:
        """Refuse: every way to sign in, or to refresh a session, ends here before anybody hears of it."""
        raise ConfigurationError(REMEDY)


class _SharedRest(AsyncPostgrestClient):
    def auth(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: it would replace the headers of every later request. `schema` returns a copy."""
        raise ConfigurationError(REMEDY)


async def _refuse(_token: str | None) -> NoReturn:
    raise ConfigurationError(REMEDY)
