"""URLs with a secret in every odd place and form, for tests that search all output for it."""

from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote

PIECES = ("tops3cret", "p1ecetwo")
"""Both pieces of each password. Neither may appear anywhere, not even alone."""
BETWEEN = ("", "#", "💥", "@", "/", "?", "%", ":", "&", "=", "+", " ", "\n", "\t", "[", "]", ",", ";", "'",
           '"', "\\", "ü", "%zz", "%23", "://", "@@", "$(", "\u2028")  # fmt: skip
"""What stands between the two pieces of a password."""


def odd_urls(scheme: str, address: str, *, path: str = "/0") -> Iterator[str]:
    """Iterate over URLs of the server at ``address``, most of them wrong in some part."""
    for between in BETWEEN:
        raw = between.join(PIECES)
        for secret in (raw, quote(raw, safe=""), quote_plus(raw)):
            yield f"{scheme}://user:{secret}@{address}{path}"
        yield f"{scheme}://:{raw}@{address}{path}"
        yield f"{scheme}://{address}{path}?password={raw}"
        yield f"{scheme}://{address}{path}?user=user&password={quote(raw, safe='')}&sslpassword={raw}"
        if "@" not in between:  # what follows an @ is a host, and a host is no secret
            yield f"{scheme}://user:{raw}"
    secret = "".join(PIECES)
    yield from (
        f"user:{secret}@{address}{path}",
        f"{secret}",
        f"{secret}://{address}{path}",
        f"{scheme}:user:{secret}@{address}{path}",
        f"{scheme}//user:{secret}@{address}{path}",
        f"'{scheme}://user:{secret}@{address}{path}'",
        f'"{scheme}://user:{secret}@{address}{path}"',
        f" {scheme}://user:{secret}@{address}{path}\n",
        f"{scheme.upper()}://user:{secret}@{address}{path}",
        f"{scheme}+asyncpg://user:{secret}@{address}{path}",
        f"jdbc:{scheme}://{address}{path}?user=user&password={secret}",
        f"host=127.0.0.1 password={secret}",
        f"{scheme}://user:{secret}@{address},{address}{path}",
        f"{scheme}://user:{secret}@{address},{PIECES[0]}:{PIECES[1]}{path}",
        f"{scheme}://user:{secret}@[::1]:1{path}",
        f"{scheme}://user:{secret}@[::1{path}",
        f"{scheme}://user:{secret}@127.0.0.1:99999{path}",
        f"{scheme}://user:{secret}@127.0.0.1:port{path}",
        f"{scheme}://user:{secret}@{path}",
        f"{scheme}://user:{secret}@{address}?no_such={secret}",
        f"{scheme}://user:{secret}@{address}{path}?{secret}",
        f"{scheme}://user:{secret}@{address}{path}?=x&{secret}=1",
        f"{scheme}://user@{address}{path}?password={PIECES[0]}&{PIECES[1]}=1",
        f"{scheme}://user:{secret}@{address}{path}?sslmode={secret}",
        f"{scheme}://user:{secret}@{address}{path}?port={secret}",
        f"{scheme}://user:{secret}@{address}{path}?target_session_attrs={secret}",
        f"{scheme}://user:{secret}@{address}{path}?ssl_min_protocol_version={secret}",
        f"{scheme}://user:{secret}@{address}{path}?sslmode=require&sslkey=/nowhere&sslpassword={secret}",
        f"{scheme}://user:{secret}@{address}{path}?db={secret}",
        f"{scheme}://user:{secret}@{address}{path}?ssl_cert_reqs={secret}",
        f"{scheme}://user:{secret}@{address}{path}?pgbouncer=true&password={secret}",
        f"{scheme}://user:{secret}@{address}{path}?options=-c%20x={secret}",
        f"{scheme}://user:{secret}@{address}{path}?service={secret}",
        f"{scheme}+sentinel://user:{secret}@{address}/main/0?sentinel_password={secret}",
        f"{scheme}+sentinel://user:{PIECES[0]},{PIECES[1]}@{address}/main",
        f"{scheme}+sentinel://user:{PIECES[0]}/{PIECES[1]}@{address}/main",
        f"{scheme}+sentinel://user:{secret}@{address}/main/x",
        f"unix://user:{secret}@/nowhere/redis.sock?db=x",
        f"{scheme}://user:{secret}@xn--{'a' * 70}{path}",
    )  # fmt: skip


def leaks(text: str) -> list[str]:
    """Return the pieces of a password that ``text`` shows, in plain or percent-encoded."""
    seen = text + unquote(text) + unquote(unquote(text))
    return [piece for piece in PIECES if piece.lower() in seen.lower()]
