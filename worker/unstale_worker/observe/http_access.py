"""Decides who is answered over HTTP: by bearer token, by a browser's session, or on loopback without either.

A session is a cookie that only the server reads (HttpOnly) and that no other site can send along
(SameSite=Strict). It holds no token but an expiry time and a signature made with the token: a worker that was
restarted, or another one with the same token, accepts it, and a changed token ends it.
"""

import hashlib
import hmac
import secrets
import time
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

SESSION_SECONDS: Final = 12 * 3600
COOKIE: Final = "unstale_session"
CSRF_HEADER: Final = "X-Unstale-CSRF"
SIGN_IN: Final = "/sign-in"

OPEN_PATHS: Final = frozenset({"/healthz", SIGN_IN})
"""Answered without a token: they reveal only that the process runs."""
OPEN_PREFIX: Final = "/page/"
"""Files of the page, which are the same everywhere."""

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
ANOTHER_SITE: Final = "another site may not ask this; open the worker's own page\n"
NO_CSRF: Final = (
    f"the header {CSRF_HEADER} is missing or wrong; reload the page, or send the bearer token instead\n"
)
SIGNED_IN: Final = web.RequestKey("signed_in", bool)
"""Set on every request that may see more than files: if it carries the token or a session."""
NO_TOKEN: Final = "a bearer token is required: UNSTALE_HTTP_TOKEN\n"


class Access:
    """Rights of those who ask one server.

    Args:
        token: The bearer token; None on loopback, where everybody on this machine may read.
    """

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        self._key = (
            secrets.token_bytes(32) if self._token is None else _signed(self._token, "unstale page session")
        )

    @property
    def may_act(self) -> bool:
        """True if a client may also change something, which is so only where a token is required."""
        return self._token is not None

    def is_token(self, given: str) -> bool:
        """Compare a token in constant time."""
        return self._token is not None and hmac.compare_digest(
            given.encode("utf-8", "surrogateescape"), self._token
        )

    def begin_session(self, request: web.Request, response: web.StreamResponse) -> None:
        """Give the browser a session; over HTTPS, also behind a proxy, the cookie never leaves HTTPS."""
        body = f"{int(time.time()) + SESSION_SECONDS}.{secrets.token_urlsafe(12)}"
        response.set_cookie(
            COOKIE,
            f"{body}.{_signed(self._key, body).hex()}",
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=request.secure or request.headers.get("X-Forwarded-Proto") == "https",
        )

    def end_session(self, response: web.StreamResponse) -> None:
        """Let the browser forget its session."""
        response.del_cookie(COOKIE, httponly=True, samesite="Strict")

    def in_session(self, request: web.Request) -> bool:
        """Return True if the request carries a session that has not expired."""
        body, _, signature = request.cookies.get(COOKIE, "").rpartition(".")
        expires = body.partition(".")[0]
        return (
            hmac.compare_digest(
                signature.encode("utf-8", "surrogateescape"), _signed(self._key, body).hex().encode()
            )
            and expires.isdecimal()
            and int(expires) > time.time()
        )

    def csrf(self, request: web.Request) -> str:
        """Return what a browser has to send in `CSRF_HEADER` with everything that is not a mere question."""
        return _signed(self._key, f"csrf {request.cookies.get(COOKIE, '')}").hex()

    def middleware(self) -> Middleware:
        """Return the check of every request."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            if _from_another_site(request):
                return web.Response(status=403, text=ANOTHER_SITE)
            if request.path in OPEN_PATHS or request.path.startswith(OPEN_PREFIX):
                return await handler(request)
            bearer = self._token is not None and self.is_token(_bearer(request))
            request[SIGNED_IN] = self._token is None or bearer or self.in_session(request)
            if not request[SIGNED_IN] and not _is_page(request):
                return web.Response(status=401, text=NO_TOKEN, headers={"WWW-Authenticate": "Bearer"})
            if request.method not in SAFE and not bearer:
                given = request.headers.get(CSRF_HEADER, "").encode("utf-8", "surrogateescape")
                if not hmac.compare_digest(given, self.csrf(request).encode()):
                    return web.Response(status=403, text=NO_CSRF)
            return await handler(request)

        return check


def wants_page(request: web.Request) -> bool:
    """Return True for a browser: its header ``Accept`` names HTML."""
    for part in ",".join(request.headers.getall("Accept", [])).split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        if kind == "text/html":
            return not any(word.replace(" ", "") in ("q=0", "q=0.0") for word in parameters)
    return False


def _is_page(request: web.Request) -> bool:
    """Return True for the only path that answers with a form to sign in."""
    return request.path == "/" and request.method in SAFE and wants_page(request)


def _from_another_site(request: web.Request) -> bool:
    """Return True if a browser says that another site, or another port, asks; a link may lead to `/`."""
    origin = request.headers.get("Sec-Fetch-Site", "none")
    if origin in ("none", "same-origin"):
        return False
    return request.path != "/" or request.headers.get("Sec-Fetch-Mode") != "navigate"


def _bearer(request: web.Request) -> str:
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if kind == "Bearer" else ""


def _signed(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode("utf-8", "surrogateescape"), hashlib.sha256)
