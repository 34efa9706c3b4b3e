"""A project's keys, old and new, and the role each one stands for."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

YEAR_SECONDS = 365 * 86_400
LONG_LIVED = {"iat": 1_767_225_600, "exp": 4_102_444_800}
"""From 2026 to 2100: keys from the same seed are the same text at each start."""


class Refused(Exception):
    """A key or token is refused; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Claims:
    """The role of a key or token, and the time at which it ends."""

    role: str
    expires: float
    """Unix time in seconds."""
    claims: dict[str, Any] = field(default_factory=dict)


class Keys:
    """Both kinds of keys of a project; all but `jwt_secret` may be handed to clients.

    Args:
        seed: Text that the keys are derived from; None: random keys.
    """

    def __init__(self, seed: str | None = None) -> None:
        seed = seed or secrets.token_hex(32)
        self.jwt_secret = _derived(seed, "jwt") + _derived(seed, "jwt, second half")
        self.secret = f"sb_secret_{_derived(seed, 'secret')}"
        self.publishable = f"sb_publishable_{_derived(seed, 'publishable')}"
        self.service_role = self._signed({"role": "service_role", "iss": "supabase", **LONG_LIVED})
        self.anon = self._signed({"role": "anon", "iss": "supabase", **LONG_LIVED})

    def token(self, role: str, *, expires_in: float = YEAR_SECONDS, **claims: Any) -> str:
        """Return a signed JWT of `role`; it may have expired already."""
        now = time.time()
        return self._signed(
            {"role": role, "iss": "supabase", "iat": int(now), "exp": int(now + expires_in), **claims}
        )

    def _signed(self, body: Mapping[str, Any]) -> str:
        signed = ".".join(
            _encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, body)
        )
        return f"{signed}.{_encoded(self._signature(signed))}"

    def claims(self, key: str) -> Claims:
        """Return the role of a key, as the gateway and the services find it. Raises `Refused`."""
        if key == self.secret:
            return Claims("service_role", time.time() + YEAR_SECONDS, {"role": "service_role"})
        if key == self.publishable:
            return Claims("anon", time.time() + YEAR_SECONDS, {"role": "anon"})
        body = self._verified(key)
        if not isinstance(body.get("role"), str) or not isinstance(body.get("exp"), int):
            raise Refused("Fields `role` and `exp` are required in JWT")
        if (over := time.time() - body["exp"]) > 0:
            raise Refused(f"Token has expired {int(over)} seconds ago")
        return Claims(body["role"], body["exp"], body)

    def _verified(self, token: str) -> dict[str, Any]:
        signed, _, signature = token.rpartition(".")
        try:
            header, body = (json.loads(_decoded(part)) for part in signed.split("."))
            right = header["alg"] == "HS256" and hmac.compare_digest(
                _decoded(signature), self._signature(signed)
            )
        except (ValueError, KeyError, TypeError, binascii.Error):
            right, body = False, None
        if not right or not isinstance(body, dict):
            raise Refused("The token provided is not a valid JWT")
        return body

    def _signature(self, signed: str) -> bytes:
        return hmac.new(self.jwt_secret.encode(), signed.encode(), hashlib.sha256).digest()


def _derived(seed: str, purpose: str) -> str:
    return hmac.new(seed.encode(), purpose.encode(), hashlib.sha256).hexdigest()[:32]


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
