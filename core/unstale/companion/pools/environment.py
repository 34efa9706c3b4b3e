"""Proxies that the environment names."""

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def proxy_of(url: str) -> str | None:
    """Return the proxy for ``url`` by ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``, or None.

    The HTTP libraries read these variables only for transports that they make themselves.
    """
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy:
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
