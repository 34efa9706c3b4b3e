"""The page is shown to those who may see it, and another site can make nobody's browser ask or act."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from unstale.protocol.names import Names
from unstale_worker.observe import http_access
from workers import redis_at
from workers.page_stage import served

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
TOKEN = {"Authorization": "Bearer secret"}
STATIC = Path(http_access.__file__).parents[1] / "page" / "static"


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html;q=0", "image/*", None])
async def test_programs_get_json(accept: str | None) -> None:
    async with served() as (session, url):
        headers = {} if accept is None else {"Accept": accept}
        async with session.get(url, headers=headers) as response:
            assert (await response.json())["fence"] == 3
            assert response.headers["Vary"] == "Accept"


async def test_a_browser_gets_a_page_that_may_run_and_load_nothing_else() -> None:
    async with served() as (session, url), session.get(url, headers=BROWSER) as response:
        page = await response.text()
        policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
        assert response.content_type == "text/html"
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|https?://", page)


async def test_no_script_makes_markup_of_text() -> None:
    for script in STATIC.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?://", script.read_text()
        )


async def test_files_are_sent_once_and_no_other_is_sent() -> None:
    async with served() as (session, url):
        async with session.get(f"{url}/page/page.js") as response:
            tag = response.headers["ETag"]
        async with session.get(f"{url}/page/page.js", headers={"If-None-Match": tag}) as response:
            assert response.status == 304
        for path in ("page/../service.py", "page/%2e%2e/service.py", "page/vendor", "page/none.js"):
            async with session.get(f"{url}/{path}") as response:
                assert response.status == 404
        async with session.get(f"{url}/page/vendor/uPlot.LICENSE") as response:
            assert "MIT License" in await response.text()


async def test_a_path_that_does_not_exist_is_answered_with_those_that_do() -> None:
    async with served() as (session, url):
        for path in ("health", "ready", "metrics/", "%3Cscript%3E"):
            async with session.get(f"{url}/{path}") as response:
                assert response.status == 404
                assert response.content_type == "text/plain"
                text = await response.text()
            for known in ("/healthz", "/readyz", "/metrics", "/api/agents", "/api/why"):
                assert known in text
    async with served(token="secret") as (session, url), session.get(f"{url}/health") as response:
        assert response.status == 401
        assert "/metrics" not in await response.text()


async def test_a_browser_signs_in_with_the_token_and_out_again(redis_url: str) -> None:
    async with served(redis_url, token="secret") as (session, url):
        async with session.get(url, headers=BROWSER) as response:
            assert response.status == 401
            form = await response.text()
            assert 'action="/sign-in"' in form
            assert "leading" not in form
        for path in ("api/session", "api/feed", "api/why?key=x", "metrics", "readyz"):
            async with session.get(f"{url}/{path}", headers=BROWSER) as response:
                assert response.status == 401
        for wrong in ({"token": "wrong"}, {"token": "sécret"}, {}, {"other": "secret"}):
            async with session.post(f"{url}/sign-in", data=wrong) as response:
                assert response.status == 401
                assert "Set-Cookie" not in response.headers

        async with session.post(
            f"{url}/sign-in", data={"token": "secret"}, allow_redirects=False,
            headers={"X-Forwarded-Proto": "https"},
        ) as response:  # fmt: skip
            assert "; Secure" in response.headers["Set-Cookie"]
        session.cookie_jar.clear()
        async with session.post(
            f"{url}/sign-in", data={"token": "secret"}, allow_redirects=False
        ) as response:
            assert response.status == 303
            assert response.headers["Location"] == "/"
            cookie = response.headers["Set-Cookie"]
            assert "; HttpOnly" in cookie
            assert "; SameSite=Strict" in cookie
            assert "secret" not in cookie
        async with session.get(url, headers=BROWSER) as response:
            assert 'id="flow"' in await response.text()
        async with session.get(url) as response:
            assert (await response.json())["fence"] == 3
        async with session.get(f"{url}/api/session") as response:
            csrf = (await response.json())["csrf"]
        async with session.post(f"{url}/sign-out", headers={"X-Unstale-CSRF": csrf}) as response:
            assert response.status == 200
        async with session.get(f"{url}/api/session") as response:
            assert response.status == 401


async def test_a_session_expires_and_holds_for_its_token_only(monkeypatch: pytest.MonkeyPatch) -> None:
    cookies: dict[str, str] = {}
    for token in ("secret", "other"):
        async with (
            served(token=token) as (session, url),
            session.post(f"{url}/sign-in", data={"token": token}, allow_redirects=False) as response,
        ):
            cookies[token] = response.cookies["unstale_session"].value
    expires, nonce, signature = cookies["secret"].split(".")
    later = f"{int(expires) + 1}.{nonce}.{signature}"
    async with served(token="secret") as (session, url):

        async def status(value: str) -> int:
            headers = {"Cookie": f"unstale_session={value}"}
            async with session.get(f"{url}/api/session", headers=headers) as response:
                return response.status

        session.cookie_jar.clear()
        assert await status(cookies["secret"]) == 200  # also after a restart
        for forged in (cookies["other"], later, "", ".", "..", f"{expires}.{nonce}.", "é.é.é"):
            assert await status(forged) == 401, forged
        monkeypatch.setattr(time, "time", lambda: float(expires) + 1)
        assert await status(cookies["secret"]) == 401


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_another_site_can_neither_ask_nor_act(redis_url: str, site: str) -> None:
    async with served(redis_url) as (session, url):
        async with session.get(f"{url}/api/session") as response:
            csrf = (await response.json())["csrf"]
        for method, path in (
            ("GET", ""), ("GET", "api/why?key=x"), ("GET", "api/session"), ("GET", "api/feed"),
            ("POST", "api/doctor"), ("POST", "api/dead-letters"), ("POST", "sign-in"), ("GET", "metrics"),
        ):  # fmt: skip
            headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "X-Unstale-CSRF": csrf}
            async with session.request(method, f"{url}/{path}", headers=headers) as response:
                assert response.status == 403, path
        link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", **BROWSER}
        async with session.get(url, headers=link) as response:
            assert response.status == 200


@pytest.mark.parametrize("token", [None, "secret"])
async def test_what_acts_wants_a_token_that_only_the_page_can_read(redis_url: str, token: str | None) -> None:
    async with served(redis_url, token=token) as (session, url):
        if token is not None:
            async with session.post(f"{url}/sign-in", data={"token": token}):
                pass
        for given in ({}, {"X-Unstale-CSRF": "0" * 64}, {"X-Unstale-CSRF": "é"}):
            for path in ("api/doctor", "api/explain", "api/dead-letters", "sign-out"):
                async with session.post(f"{url}/{path}", json={}, headers=given) as response:
                    assert response.status == 403


async def test_dead_letters_are_retried_and_dropped_by_those_who_have_the_token(redis_url: str) -> None:
    names = Names()
    async with redis_at(redis_url) as redis:
        letter = '{"pattern": "user:{id}:profile", "error": "<b>no</b>", "attempts": 5, "at": 1700000000000}'
        for key in ("user:1:profile", "user:2:profile", "user:3:profile"):
            await redis.hset(names.dead_letters, key, letter)
        async with served(redis_url) as (session, url):
            async with session.get(f"{url}/api/session") as response:
                said = await response.json()
                assert said["may_act"] is False
            headers = {"X-Unstale-CSRF": said["csrf"]}
            act = {"action": "drop", "key": "user:1:profile"}
            async with session.post(f"{url}/api/dead-letters", json=act, headers=headers) as response:
                assert response.status == 403
                assert "UNSTALE_HTTP_TOKEN" in (await response.json())["error"]
        assert await redis.hlen(names.dead_letters) == 3
        async with served(redis_url, token="secret") as (session, url):
            async with session.post(f"{url}/api/dead-letters", json=act, headers=TOKEN) as response:
                assert await response.json() == {"key": "user:1:profile", "found": True}
            async with session.post(f"{url}/sign-in", data={"token": "secret"}):
                pass
            async with session.get(f"{url}/api/session") as response:
                headers = {"X-Unstale-CSRF": (await response.json())["csrf"]}
            act = {"action": "retry", "key": "user:2:profile"}
            async with session.post(f"{url}/api/dead-letters", json=act, headers=headers) as response:
                assert (await response.json())["found"] is True
            assert await redis.zscore(names.refresh, "user:2:profile") is not None
            async with session.get(f"{url}/api/dead-letters") as response:
                assert [each["key"] for each in (await response.json())["letters"]] == ["user:3:profile"]
            for wrong in ({}, {"action": "drop"}, {"action": "DROP", "key": "user:3:profile"}, [1]):
                async with session.post(f"{url}/api/dead-letters", json=wrong, headers=headers) as response:
                    assert response.status == 400
        await redis.delete(names.refresh, names.dead_letters)
