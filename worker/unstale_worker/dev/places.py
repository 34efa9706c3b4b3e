"""Ports and secrets of ``unstale dev``: the same at each start, so that URLs stay valid."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from unstale.errors import ConfigurationError

PORT: Final = 18420
"""First of the four ports; below the ports that systems give to outgoing connections."""
KEPT: Final = Path(".unstale/dev.secret")
"""File of the secret that all passwords and keys are derived from, below the working directory."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports on loopback; 0 means a free one."""

    postgres: int = 0
    valkey: int = 0
    page: int = 0
    supabase: int = 0

    @classmethod
    def from_first(cls, first: int) -> Ports:
        """Return `first` and the three after it; free ports for 0."""
        return cls(first, first + 1, first + 2, first + 3) if first else cls()

    def refuse_taken(self, *, page: bool, supabase: bool) -> None:
        """Raise `ConfigurationError` if another program has one of the ports that are needed."""
        wanted = [(self.postgres, "Postgres"), (self.valkey, "Redis")]
        wanted += [(self.page, "the worker's page")] if page else []
        wanted += [(self.supabase, "the Supabase API")] if supabase else []
        taken = [f"{port} for {use}" for port, use in wanted if port and not _free(port)]
        if taken:
            raise ConfigurationError(
                f"another program, perhaps another `unstale dev`, has the port {', '.join(taken)}; end it, "
                "or choose other ports with --port"
            )


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a closed connection counts
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Secret:
    """Secret of a project; passwords and keys are derived from it."""

    value: str = field(repr=False)

    @classmethod
    def kept(cls, path: Path) -> Secret:
        """Read the secret from `path`, or write a new one there, which other users cannot read."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                if len(value := path.read_text("ascii").strip()) >= 32:
                    return cls(value)
            elif path.parent.name == KEPT.parent.name and not any(path.parent.iterdir()):
                (path.parent / ".gitignore").write_text("*\n", "utf-8")
            value = secrets.token_hex(32)
            path.touch(mode=0o600)
            path.write_text(value + "\n", "ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"cannot keep the passwords in {path} ({error}); check its folder and permissions"
            ) from error
        return cls(value)

    def derived(self, purpose: str) -> str:
        """Return 32 hexadecimal digits for one purpose."""
        return hmac.new(self.value.encode(), purpose.encode(), hashlib.sha256).hexdigest()[:32]
