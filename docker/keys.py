"""Prints an `.env` for the local stack: random secrets, and the API keys signed with them.

python3 docker/keys.py > .env
"""

import base64
import hashlib
import hmac
import json
import secrets
import time

YEARS = 10


def encoded(data: bytes) -> str:
    """Base64 as JWTs have it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def key(role: str, secret: str) -> str:
    """A JWT that the API takes as ``role``."""
    now = int(time.time())
    claims = {"role": role, "iss": "supabase", "iat": now, "exp": now + YEARS * 365 * 86_400}
    parts = [encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    signature = hmac.digest(secret.encode(), ".".join(parts).encode(), hashlib.sha256)
    return ".".join([*parts, encoded(signature)])


def environment() -> dict[str, str]:
    """Variable to value; new secrets at each call."""
    password, jwt_secret = secrets.token_hex(16), secrets.token_hex(32)
    return {
        "POSTGRES_PASSWORD": password,
        "JWT_SECRET": jwt_secret,
        "SECRET_KEY_BASE": secrets.token_hex(32),
        "REALTIME_DB_ENC_KEY": secrets.token_hex(8),
        "SUPABASE_URL": "http://127.0.0.1:54321",
        "SUPABASE_SERVICE_ROLE_KEY": key("service_role", jwt_secret),
        "SUPABASE_ANON_KEY": key("anon", jwt_secret),
        # Inside the stack's own network nothing is encrypted.
        "DATABASE_URL": f"postgresql://unstale_worker:{password}@db:5432/postgres?sslmode=disable",
        "RULES_FOLDER": "./examples/companion",
    }


if __name__ == "__main__":
    print("\n".join(f"{name}={value}" for name, value in environment().items()))
