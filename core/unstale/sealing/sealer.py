"""Compress and encrypt values for Redis, and open them again."""

import re
from collections.abc import Sequence
from typing import Final

from unstale.errors import MissingExtra
from unstale.protocol import sealed
from unstale.protocol.value_keys import parse_keys, parse_scopes
from unstale.runtime.extras import needs
from unstale.sealing.compression import Zstd
from unstale.sealing.key_source import KeySource, KeyUnavailable
from unstale.settings.shared import SharedSettings

PLAIN: Final = b"p"
ZSTD: Final = b"z"
"""First byte of an encrypted text: how its rest is to be read."""

_ZSTD_BYTE: Final = ZSTD[0]
MOST_BYTES: Final = 64 * 1024 * 1024
"""Bytes of a decompressed value, at least, that are accepted; a frame of a few bytes may hold gigabytes."""


class Sealer:
    """Turns the JSON of a value into what stands in Redis, and back.

    Example:
        >>> content = await sealer.sealed("user:42:profile", b'{"name":"Ada"}')
        >>> await sealer.opened("user:42:profile", content)
        b'{"name":"Ada"}'
    """

    def __init__(
        self,
        namespace: str,
        *,
        source: KeySource | None,
        scopes: Sequence[re.Pattern[str]],
        zstd: Zstd | None,
        compress_above: int,
        most: int,
    ) -> None:
        self._namespace, self._source, self._scopes = namespace, source, scopes
        self._zstd, self._above, self._most = zstd, compress_above, most
        self._prefix = sealed.associated(namespace, "")
        self._unzip: Zstd | None = zstd

    def ready(self, key: str) -> bool:
        """Return True if the keys of ``key``'s user are known, so that `prepare` is not needed."""
        return self._source is None or self._source.known(self._user(key))

    async def prepare(self, key: str) -> None:
        """Ask for the keys of ``key``'s user, if they are not known."""
        if self._source is not None and not self.ready(key):
            await self._source.ask(self._user(key))

    def seal(self, key: str, data: bytes) -> bytes | None:
        """Return what is stored for a JSON text; None if there is no key, so that nothing may be stored."""
        body, suffix = sealed.split_suffix(data)
        text, kind = body, PLAIN
        if self._zstd is not None and len(body) > self._above:
            frame = self._zstd.compress(body)
            if len(frame) < len(body):
                text, kind = frame, ZSTD
        if self._source is None:
            return data if kind == PLAIN else b"".join((sealed.COMPRESSED, text, sealed.END, suffix))
        try:
            ciphers = self._source.of(self._user(key))
        except KeyUnavailable:
            return None
        if ciphers is None:
            return None
        key_id, nonce, content = ciphers.encrypt(kind + text, self._associated(key))
        name = key_id.encode()
        return b"".join((sealed.ENCRYPTED, bytes((len(name),)), name, nonce, content, sealed.END, suffix))

    def open(self, key: str, content: bytes) -> bytes | None:
        """Return the JSON text of what is stored; None if it cannot be opened.

        Raises `KeyUnavailable` if the keys of ``key``'s user could not be asked for.
        """
        parts = sealed.parse(content)
        if parts is None:
            return None
        key_id, nonce, text, suffix = parts
        zipped = True
        if key_id is not None:
            ciphers = None if self._source is None else self._source.of(self._user(key))
            plain = None if ciphers is None else ciphers.decrypt(key_id, nonce, text, self._associated(key))
            if plain is None:
                return None
            text, zipped = plain[1:], plain[0] == _ZSTD_BYTE
        if zipped:
            try:
                text = self._unzipped(text)
            except (ValueError, MissingExtra):
                return None
        return text + suffix if suffix else text

    async def sealed(self, key: str, data: bytes) -> bytes | None:
        """As `seal`, after `prepare`."""
        await self.prepare(key)
        return self.seal(key, data)

    async def opened(self, key: str, content: bytes) -> bytes | None:
        """As `open`, after `prepare`; a value that is not sealed is returned as it is."""
        if not content.startswith(sealed.SEALED):
            return content
        await self.prepare(key)
        try:
            return self.open(key, content)
        except KeyUnavailable:
            return None

    async def key_ids(self) -> tuple[str, ...]:
        """Return the ids of the keys of values that belong to no user; the first one writes."""
        if self._source is None:
            return ()
        if not self._source.known(""):
            await self._source.ask("")
        try:
            ciphers = self._source.of("")
        except KeyUnavailable:
            return ()
        return () if ciphers is None else ciphers.ids

    def _associated(self, key: str) -> bytes:
        """Return what is authenticated with a value, so that it cannot be moved to another key."""
        return self._prefix + key.encode()

    def _unzipped(self, frame: bytes) -> bytes:
        if self._unzip is None:  # another process compresses
            self._unzip = Zstd()
        return self._unzip.decompress(frame, most=self._most)

    def _user(self, key: str) -> str:
        for scope in self._scopes:
            if (found := scope.fullmatch(key)) is not None:
                return found["user"]
        return ""

    def __repr__(self) -> str:
        return f"<Sealer {self._source!r}>"


def sealer_of(settings: SharedSettings) -> Sealer | None:
    """Return what the settings ask for, or None: plain JSON. Raises `MissingExtra` or `SettingError`."""
    keys, function = settings.value_keys, settings.value_key_function
    encrypts = keys is not None or function is not None
    if not encrypts and settings.compress_above is None:
        return None
    source = None
    if encrypts:
        with needs("crypto", what="UNSTALE_VALUE_KEYS"):
            fixed = None if keys is None else parse_keys(keys.get_secret_value())
            source = KeySource(fixed, function, settings.namespace)
    return Sealer(
        settings.namespace,
        source=source,
        scopes=() if settings.value_key_users is None else parse_scopes(settings.value_key_users),
        zstd=None if settings.compress_above is None else Zstd(),
        compress_above=settings.compress_above or 0,
        most=max(MOST_BYTES, settings.max_value_bytes),
    )
