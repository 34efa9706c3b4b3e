"""Fingerprints of a loader's inputs: equal ones mean that the loader would return the same. Pure."""

import hashlib
from typing import Final

from unstale.protocol.plain_values import dumps

VERSION: Final = "1"
"""Part of each fingerprint: raise it when the same inputs get another one."""


def digest(key: str, content: object) -> str:
    """Return the fingerprint of what JSON can hold, as 32 hex digits; raises TypeError for anything else.

    It is keyed by the cache key, so it does not tell whose inputs are equal.
    """
    own = hashlib.blake2b(key.encode(), digest_size=32).digest()
    data = dumps([VERSION, content], lambda *_: None)
    return hashlib.blake2b(data, digest_size=16, key=own).hexdigest()
