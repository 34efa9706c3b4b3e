"""A headless Chromium, driven over its own protocol; records everything that it says and loads."""

import asyncio
import base64
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from servers import eventually

SECONDS: Final = 60.0
FLAGS: Final = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--remote-debugging-port=0", "--hide-scrollbars", "--force-device-scale-factor=1",
)  # fmt: skip


def chromium() -> str:
    """Return the program; without one skip the test, or fail it under CI."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        reason = "no Chromium: install Debian's package chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@dataclass
class Tab:
    """One tab.

    Attributes:
        errors: Errors and warnings of the console, and exceptions that no script caught.
        urls: Addresses of everything that was asked for.
        loaded: Bytes received over the network, without server-sent events.
    """

    socket: aiohttp.ClientWebSocketResponse
    errors: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    loaded: int = 0
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _waiting: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    _streams: set[str] = field(default_factory=set)

    async def listen(self) -> None:
        """Take what the browser says until it ends."""
        async for message in self.socket:
            said = message.json()
            if "id" in said:
                waiting = self._waiting.pop(said["id"], None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(said)
            else:
                self._event(said["method"], said["params"])

    def _event(self, method: str, given: dict[str, Any]) -> None:
        match method:
            case "Runtime.consoleAPICalled" if given["type"] in ("error", "warning", "assert"):
                self.errors.append(str(given["args"]))
            case "Runtime.exceptionThrown":
                self.errors.append(str(given["exceptionDetails"]))
            case "Log.entryAdded" if given["entry"]["level"] in ("error", "warning"):
                self.errors.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.urls.append(given["request"]["url"])
            case "Network.responseReceived" if given["type"] == "EventSource":
                self._streams.add(given["requestId"])
            case "Network.dataReceived" if given["requestId"] not in self._streams:
                self.loaded += given["dataLength"]

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the browser's protocol."""
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        said: dict[str, Any] = await asyncio.wait_for(self._waiting[number], SECONDS)
        assert "error" not in said, (method, said["error"])
        result: dict[str, Any] = said["result"]
        return result

    async def go(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def value(self, script: str) -> Any:
        """Return the value of an expression, also that of a promise."""
        said = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression is true."""

        async def holds() -> bool:
            said = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
            return bool(said["result"].get("value")) and "exceptionDetails" not in said

        await eventually(holds, timeout=SECONDS, message=script)

    async def text(self, selector: str) -> str:
        """Return the text that is shown in an element."""
        return str(await self.value(f"document.querySelector({selector!r}).innerText"))

    async def click(self, selector: str) -> None:
        """Click an element."""
        await self.value(f"document.querySelector({selector!r}).click()")

    async def look(
        self, *, width: int = 1280, height: int = 900, dark: bool = False, phone: bool = False
    ) -> None:
        """Set size and colours."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self) -> bytes:
        """Return a picture of the whole page, as PNG."""
        said = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(said["data"])


@asynccontextmanager
async def tab() -> AsyncIterator[Tab]:
    """Start a browser of the test's own and open a tab."""
    with tempfile.TemporaryDirectory(prefix="unstale-test-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            told = Path(profile) / "DevToolsActivePort"
            await eventually(lambda: told.exists() and told.read_text().count("\n") >= 1, timeout=SECONDS)
            address = f"http://127.0.0.1:{told.read_text().splitlines()[0]}"
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{address}/json/list") as response:
                    (page,) = [each for each in await response.json() if each["type"] == "page"]
                async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=64 << 20) as socket:
                    opened = Tab(socket)
                    listening = asyncio.create_task(opened.listen())
                    for domain in ("Page", "Runtime", "Log", "Network"):
                        await opened.call(f"{domain}.enable")
                    yield opened
                    await socket.close()
                    await listening
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
