"""The source of keys: the setting, or a function of the application that asks a KMS or a table."""

import asyncio
import importlib
import inspect
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from unstale.errors import SettingError
from unstale.protocol.value_keys import parse_keys

logger = logging.getLogger("unstale")

KEPT_SECONDS: Final = 300.0
"""Seconds after which a user's keys are asked for again, so that a forgotten key is forgotten here, too."""
FAILED_SECONDS: Final = 5.0
"""Seconds after a failure before the function is asked again."""
ASK_SECONDS: Final = 5.0
"""Time limit for one call of the function."""
MOST_USERS: Final = 10_000
"""Users whose keys are kept in memory."""


class KeyUnavailable(Exception):
    """The function that has the keys failed: nothing is known about a key for now."""


class Ciphers:
    """The keys of one user, or of all values that belong to no user; the first one writes."""

    def __init__(self, keys: dict[str, bytes], namespace: str) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = b"unstale value key 1\x00" + namespace.encode()
        self._ciphers = {
            name: AESGCM(HKDF(SHA256(), length=32, salt=None, info=info).derive(key))
            for name, key in keys.items()
        }
        self._refusals = (InvalidTag, ValueError)
        self.writes = next(iter(self._ciphers))

    def encrypt(self, data: bytes, associated: bytes) -> tuple[str, bytes, bytes]:
        """Return the id of the key, the nonce and the ciphertext."""
        nonce = os.urandom(12)
        return self.writes, nonce, self._ciphers[self.writes].encrypt(nonce, data, associated)

    def decrypt(self, key_id: str, nonce: bytes, content: bytes, associated: bytes) -> bytes | None:
        """Return the plain text; None if the key is not known, or the content is not what was encrypted."""
        cipher = self._ciphers.get(key_id)
        try:
            return None if cipher is None else cipher.decrypt(nonce, content, associated)
        except self._refusals:
            return None

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys; the first one writes."""
        return tuple(self._ciphers)

    def __repr__(self) -> str:
        return f"<Ciphers {', '.join(self._ciphers)}>"


class KeySource:
    """Keys by user: '' for values that belong to no user.

    Args:
        fixed: Keys of the setting; they serve every user if there is no function.
        function: ``module:name`` of a function, plain or async, that gets a user, or None, and returns text
            as in the setting, or None if that user's keys are forgotten.
        namespace: Keys are derived for it, so that the same key is another one in another namespace.
    """

    def __init__(self, fixed: dict[str, bytes] | None, function: str | None, namespace: str) -> None:
        self._namespace = namespace
        self._function = None if function is None else _found(function)
        self._fixed = None if fixed is None else Ciphers(fixed, namespace)
        self._users: OrderedDict[str, tuple[Ciphers | None, float]] = OrderedDict()
        self._failed: dict[str, float] = {}
        self._asking: dict[str, asyncio.Future[None]] = {}

    def known(self, user: str) -> bool:
        """Return True if the keys of ``user`` need not be asked for."""
        if self._function is None:
            return True
        found = self._users.get(user)
        return found is not None and time.monotonic() < found[1]

    def of(self, user: str) -> Ciphers | None:
        """Return the keys of ``user``; None if they are forgotten. Raises `KeyUnavailable`."""
        if self._function is None:
            return self._fixed
        found = self._users.get(user)
        if found is None:
            raise KeyUnavailable
        return found[0]

    async def ask(self, user: str) -> None:
        """Ask for the keys of ``user``. A failure is logged; then keys that were known go on to serve."""
        if time.monotonic() < self._failed.get(user, 0.0):
            return
        running = self._asking.get(user)
        if running is not None and running.get_loop() is asyncio.get_running_loop():
            await asyncio.shield(running)
            return
        self._asking[user] = running = asyncio.ensure_future(self._ask(user))
        running.add_done_callback(lambda _: self._asking.pop(user, None))
        await asyncio.shield(running)

    async def _ask(self, user: str) -> None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                text = self._function(user or None) if self._function is not None else None
                if inspect.isawaitable(text):
                    text = await text
            ciphers = None if text is None else Ciphers(parse_keys(text), self._namespace)
        except Exception as error:
            if len(self._failed) >= MOST_USERS:
                self._failed.clear()
            first = user not in self._failed
            self._failed[user] = time.monotonic() + FAILED_SECONDS
            if first:  # its message may hold a key
                logger.warning(
                    "UNSTALE_VALUE_KEY_FUNCTION failed (%s): until it works, values are loaded, not stored",
                    type(error).__name__,
                )
            return
        self._failed.pop(user, None)
        self._users[user] = ciphers, time.monotonic() + KEPT_SECONDS
        self._users.move_to_end(user)
        if len(self._users) > MOST_USERS:
            self._users.popitem(last=False)

    def __repr__(self) -> str:
        return f"<KeySource {self._fixed!r}, {len(self._users)} users>"


def _found(path: str) -> Callable[[str | None], Any]:
    """Import ``module:name``; raises `SettingError`."""
    module, _, name = path.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise SettingError(
            f"UNSTALE_VALUE_KEY_FUNCTION is {path!r}: it cannot be imported ({type(error).__name__}); "
            "expected 'module:function'"
        ) from error
    if not callable(found):
        raise SettingError(f"UNSTALE_VALUE_KEY_FUNCTION is {path!r}: it is not a function")
    function: Callable[[str | None], Any] = found
    return function
