"""A stand-in for OpenAI and Supabase: a process, HTTPS, 50 to 100 ms away, counts its connections."""

import asyncio
import datetime
import json
import os
import random
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

from aiohttp import web
from aiohttp.typedefs import Handler

LATENCY_SECONDS = (0.05, 0.1)
"""Seconds that a hosted database takes to answer."""
PROFILE = {"id": 1, "name": "Ada Lovelace", "mood": "curious", "bio": "x" * 380}
MESSAGE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello!"}}


@dataclass(frozen=True, slots=True)
class FarServer:
    """Where it listens, and the certificate it is to be trusted by."""

    url: str
    certificate: Path

    @contextmanager
    def trusted(self) -> Iterator[None]:
        """Inside the block httpx, httpx2 and what stands on them trust its certificate, and no other."""
        before = os.environ.get("SSL_CERT_FILE")
        os.environ["SSL_CERT_FILE"] = str(self.certificate)
        try:
            yield
        finally:
            del os.environ["SSL_CERT_FILE"]
            if before is not None:
                os.environ["SSL_CERT_FILE"] = before

    def latency(
        self, seconds: tuple[float, float], *, completions: tuple[float, float] | None = None
    ) -> None:
        """From now on answer after a random time in this range; completions in one of their own, if given."""
        trusted = ssl.create_default_context(cafile=self.certificate)
        (low, high), (model_low, model_high) = seconds, completions or seconds
        query = f"from={low}&to={high}&model_from={model_low}&model_to={model_high}"
        with urlopen(f"{self.url}/latency?{query}", context=trusted) as response:
            response.read()

    def connections(self) -> int:
        """Connections that carried a request so far, this one's left out; each began with a TLS handshake."""
        trusted = ssl.create_default_context(cafile=self.certificate)
        with urlopen(f"{self.url}/connections", context=trusted) as response:
            return int(response.read())


@contextmanager
def far_server() -> Iterator[FarServer]:
    """Start it, and end it with the block."""
    with TemporaryDirectory(prefix="unstale-bench-") as folder:
        certificate = Path(folder) / "localhost.pem"
        _write_certificate(certificate)
        process = subprocess.Popen(
            [sys.executable, __file__, str(certificate)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield FarServer(f"https://localhost:{port}", certificate)
        finally:
            process.terminate()
            process.wait()


def _write_certificate(path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )


async def _serve(certificate: str) -> None:
    seen: set[tuple[str, int]] = set()
    delay = model_delay = LATENCY_SECONDS

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        assert request.transport is not None
        if request.path not in ("/connections", "/latency"):
            seen.add(request.transport.get_extra_info("peername")[:2])
        return await handler(request)

    async def far(request: web.Request) -> web.Response:
        await request.read()
        if request.path.endswith("/chat/completions"):
            await asyncio.sleep(random.uniform(*model_delay))
            answer = {"id": "1", "object": "chat.completion", "created": int(time.time()), "model": "m"}
            return web.json_response({**answer, "choices": [MESSAGE]})
        await asyncio.sleep(random.uniform(*delay))
        return web.json_response([PROFILE])

    async def near(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": []})

    async def latency(request: web.Request) -> web.Response:
        nonlocal delay, model_delay
        asked = request.query
        delay = float(asked["from"]), float(asked["to"])
        model_delay = float(asked["model_from"]), float(asked["model_to"])
        return web.Response()

    async def connections(request: web.Request) -> web.Response:
        return web.Response(text=json.dumps(len(seen)))

    app = web.Application(middlewares=[count])
    app.router.add_get("/connections", connections)
    app.router.add_get("/latency", latency)
    app.router.add_get("/v1/models", near)
    app.router.add_route("HEAD", "/rest/v1/", near)
    app.router.add_route("*", "/{path:.*}", far)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
