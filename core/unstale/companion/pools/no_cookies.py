"""A cookie jar for httpx clients that all users share."""

from http.cookiejar import CookieJar, DefaultCookiePolicy


def no_cookies() -> CookieJar:
    """Return a jar that stores no cookie of any response, so that no user gets another user's session."""
    return CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
