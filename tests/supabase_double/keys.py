"""A project's keys, old and new, and whom each stands for."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import jwt

YEAR_SECONDS = 365 * 86_400


class Refused(Exception):
    """A key or token that lets nobody in; the text says why."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Whom a key or token stands for, and until when."""

    role: str
    expires: float
    """Unix time in seconds."""
    claims: dict[str, Any] = field(default_factory=dict)


class Keys:
    """Both kinds of keys of a project; all but `jwt_secret` may be handed to clients."""

    def __init__(self) -> None:
        self.jwt_secret = secrets.token_hex(32)
        self.secret = f"sb_secret_{secrets.token_urlsafe(16)}"
        self.publishable = f"sb_publishable_{secrets.token_urlsafe(16)}"
        self.service_role = self.token("service_role")
        self.anon = self.token("anon")

    def token(self, role: str, *, expires_in: float = YEAR_SECONDS, **claims: Any) -> str:
        """A signed JWT of `role`; may be expired already."""
        now = time.time()
        body = {"role": role, "iss": "supabase", "iat": int(now), "exp": int(now + expires_in), **claims}
        return jwt.encode(body, self.jwt_secret, algorithm="HS256")

    def claims(self, key: str) -> Claims:
        """Whom it stands for, as the gateway and the services find out. Raises `Refused`."""
        if key == self.secret:
            return Claims("service_role", time.time() + YEAR_SECONDS, {"role": "service_role"})
        if key == self.publishable:
            return Claims("anon", time.time() + YEAR_SECONDS, {"role": "anon"})
        try:
            body = jwt.decode(key, self.jwt_secret, algorithms=["HS256"], options={"verify_exp": False})
        except jwt.InvalidTokenError:
            raise Refused("The token provided is not a valid JWT") from None
        if not isinstance(body.get("role"), str) or not isinstance(body.get("exp"), int):
            raise Refused("Fields `role` and `exp` are required in JWT")
        if (over := time.time() - body["exp"]) > 0:
            raise Refused(f"Token has expired {int(over)} seconds ago")
        return Claims(body["role"], body["exp"], body)
