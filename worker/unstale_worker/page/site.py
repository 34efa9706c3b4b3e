"""The page's files, its feed, and what it may ask and do."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from aiohttp import web

from unstale.errors import ConfigurationError, UnstaleError
from unstale.settings import WorkerSettings
from unstale_worker.observe.http_access import SIGN_IN, SIGNED_IN, Access
from unstale_worker.observe.http_guard import Guard
from unstale_worker.page.aside import Aside
from unstale_worker.page.feed import Feed
from unstale_worker.page.files import HEADERS, Files
from unstale_worker.redis.client import open_redis
from unstale_worker.refresh.redis.dead_letters import drop_dead, list_dead, retry_dead
from unstale_worker.rules import Rules
from unstale_worker.runtime.logs import without_passwords

REMOVALS_MOST: Final = 200
DEAD_SHOWN: Final = 100
NO_ACTING: Final = (
    "Set UNSTALE_HTTP_TOKEN and sign in to do this from the page; `unstale dead-letters` does the same"
)

Answer = Callable[[web.Request], Awaitable[object]]


class PageSite:
    """A `unstale_worker.observe.http.Site`."""

    def __init__(self, settings: WorkerSettings, rules: Rules, feed: Feed) -> None:
        self._settings, self._rules, self._feed = settings, rules, feed
        self._aside, self._files = Aside(settings, rules), Files()
        self._access = Access(None)
        self._guard = Guard()

    def install(self, app: web.Application, access: Access, guard: Guard) -> None:
        """Add the routes."""
        self._access, self._guard = access, guard
        app.on_shutdown.append(self._end)
        router = app.router
        router.add_get("/page/{name:.+}", self._file)
        router.add_post(SIGN_IN, self._sign_in)
        router.add_post("/sign-out", self._sign_out)
        router.add_get("/api/feed", self._follow)
        router.add_get("/api/session", _json(self._session))
        router.add_get("/api/why", _json(self._why))
        router.add_post("/api/explain", _json(self._explain))
        router.add_post("/api/doctor", _json(self._doctor))
        router.add_get("/api/dead-letters", _json(self._dead_letters))
        router.add_post("/api/dead-letters", _json(self._act))

    def page(self, request: web.Request) -> web.Response:
        """Return the page, or the form to sign in."""
        if request[SIGNED_IN]:
            return self._files.response("index.html", request)
        return self._files.response("sign_in.html", request, status=401)

    async def _file(self, request: web.Request) -> web.Response:
        return self._files.response(request.match_info["name"], request)

    async def _sign_in(self, request: web.Request) -> web.Response:
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            return web.Response(status=403, text="another site may not sign you in\n", headers=HEADERS)
        given = (await request.post()).get("token")
        if not isinstance(given, str) or not self._access.is_token(given.strip()):
            return self._files.response("sign_in_failed.html", request, status=401)
        response = web.Response(status=303, headers={**HEADERS, "Location": "/"})
        self._access.begin_session(request, response)
        return response

    async def _end(self, _: web.Application) -> None:
        self._feed.end()

    async def _sign_out(self, request: web.Request) -> web.Response:
        response = web.json_response({}, headers=HEADERS)
        self._access.end_session(response)
        return response

    async def _follow(self, request: web.Request) -> web.StreamResponse:
        """Send what happens until the client goes."""
        with self._guard.stream(request) as sent:
            response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
            await response.prepare(request)
            async with aclosing(self._feed.watch()) as events:
                async for event in events:
                    try:
                        await response.write(event)
                    except ConnectionError:
                        break
                    sent()
        return response

    async def _session(self, request: web.Request) -> object:
        routes = request.app.router.resources()
        return {
            "csrf": self._access.csrf(request),
            "may_act": self._access.may_act,
            "agents": any(route.canonical == "/api/agents" for route in routes),
        }

    async def _why(self, request: web.Request) -> object:
        key, most = request.query.get("key", ""), request.query.get("most", "10")
        if not key or not most.isdecimal() or not 1 <= int(most) <= REMOVALS_MOST:
            raise ConfigurationError(f"expected ?key=KEY, and most from 1 to {REMOVALS_MOST}")
        return await self._aside.why(key, most=int(most))

    async def _explain(self, request: web.Request) -> object:
        asked = await _body(request)
        table, row, old = asked.get("table"), asked.get("row"), asked.get("old")
        if not isinstance(table, str) or not isinstance(row, dict) or not isinstance(old, dict | None):
            raise ConfigurationError(
                'expected {"table": "public.profiles", "row": {"id": 42}}, perhaps "old"'
            )
        return await self._aside.explain(table, row, old)

    async def _doctor(self, request: web.Request) -> object:
        return {"findings": await self._aside.doctor()}

    async def _dead_letters(self, request: web.Request) -> object:
        async with open_redis(self._settings) as redis:
            letters = await list_dead(redis, self._settings.names)
        return {"count": len(letters), "letters": [letter.as_dict() for letter in letters[:DEAD_SHOWN]]}

    async def _act(self, request: web.Request) -> object:
        if not self._access.may_act:
            raise web.HTTPForbidden(text=NO_ACTING)
        asked = await _body(request)
        act = {"retry": retry_dead, "drop": drop_dead}.get(str(asked.get("action")))
        key = asked.get("key")
        if act is None or not isinstance(key, str):
            raise ConfigurationError('expected {"action": "retry" or "drop", "key": KEY}')
        async with open_redis(self._settings) as redis:
            return {"key": key, "found": await act(redis, self._settings.names, key)}


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        asked = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        asked = None
    if not isinstance(asked, dict):
        raise ConfigurationError("the body is not a JSON object")
    return asked


def _json(answer: Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Answer with JSON; an error becomes ``{"error": …}`` with a status of its own."""

    async def handler(request: web.Request) -> web.Response:
        code = 200
        try:
            data = await answer(request)
        except ConfigurationError as error:
            code, data = 400, {"error": without_passwords(str(error))}
        except web.HTTPForbidden as error:
            code, data = 403, {"error": error.text}
        except (UnstaleError, TimeoutError) as error:
            text = without_passwords(str(error)) or "it took too long; ask again"
            code, data = 503, {"error": text}
        return web.Response(
            status=code, body=orjson.dumps(data), content_type="application/json", headers=HEADERS
        )

    return handler
