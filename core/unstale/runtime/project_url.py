"""Checks ``SUPABASE_URL``, before any library sees it."""

from typing import Final

from unstale.errors import SettingError
from unstale.runtime.urls import UrlParts, host_and_port

FORM: Final = "expected https://….supabase.co, without user, password and options"


def project_url(text: str) -> str:
    """Return the base URL of a project; raises `SettingError` that shows no part of it.

    A user or password in it would be part of every error of the HTTP libraries, and is refused.
    """
    parts = UrlParts.of(text, refuse=_wrong)
    if parts.scheme not in ("http", "https"):
        raise _wrong("it is not a URL of the web")
    if parts.login:
        raise _wrong("it contains a user or password; the key belongs in SUPABASE_SECRET_KEY")
    if parts.options:
        raise _wrong("it has options behind a question mark")
    if not host_and_port(parts.hosts, refuse=_wrong)[0]:
        raise _wrong("it names no host")
    return text.strip()


def _wrong(problem: str) -> SettingError:
    return SettingError(f"SUPABASE_URL: {problem}; {FORM}")
