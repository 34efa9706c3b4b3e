"""The page's files, read once from the wheel, with headers that let a browser load and run nothing else."""

import hashlib
from importlib.resources import files
from typing import Final

from aiohttp import web

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
KINDS: Final = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "LICENSE": "text/plain",
}


class Files:
    """All files below ``static``, in memory: about 100 kB."""

    def __init__(self) -> None:
        static = files("unstale_worker.page") / "static"
        vendor = static / "vendor"
        self._files = {item.name: item.read_bytes() for item in static.iterdir() if item.is_file()}
        self._files |= {f"vendor/{item.name}": item.read_bytes() for item in vendor.iterdir()}

    def response(self, name: str, request: web.Request, *, status: int = 200) -> web.Response:
        """Return one file; scripts and styles are asked for again only if they changed."""
        data = self._files.get(name)
        if data is None:
            return web.Response(status=404, text="no such file\n", headers=HEADERS)
        headers = {**HEADERS, "Vary": "Accept"}
        kind = KINDS[name.rpartition(".")[2]]
        if kind != "text/html":
            tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            headers |= {"Cache-Control": "no-cache", "ETag": tag}
            if request.headers.get("If-None-Match") == tag:
                return web.Response(status=304, headers=headers)
        return web.Response(status=status, body=data, content_type=kind, charset="utf-8", headers=headers)
