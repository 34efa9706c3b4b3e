"""The form of a compressed or encrypted value in Redis. Pure.

``\\x01z`` and a zstd frame. Or ``\\x01e``, the length of the key id in one byte, the id, a nonce of 12 bytes,
and the ciphertext with its tag of 16 bytes. A full stop ends both, because white space may follow: the marks
of `codec.shorter_lived` and `codec.lease_suffix`. No JSON text and no lease begins like that.
"""

from typing import Final

SEALED: Final = b"\x01"
SEALED_BYTE: Final = SEALED[0]
COMPRESSED: Final = b"\x01z"
ENCRYPTED: Final = b"\x01e"
END: Final = b"."
_END_BYTE: Final = END[0]
NONCE_BYTES: Final = 12
_SPACE: Final = b" \t\n"


def split_suffix(data: bytes) -> tuple[bytes, bytes]:
    """Return a value and the white space behind it."""
    body = data.rstrip(_SPACE)
    return body, data[len(body) :]


def associated(namespace: str, key: str) -> bytes:
    """Return what is authenticated with a value, so that it cannot be moved to another key."""
    return b"\x00".join((b"unstale", namespace.encode(), key.encode()))


def key_id(data: bytes) -> str | None:
    """Return the id of the key that a value is encrypted with, from its first bytes; None if it is not."""
    if not data.startswith(ENCRYPTED) or len(data) < 3:
        return None
    return data[3 : 3 + data[2]].decode("ascii", "replace")


def parse(data: bytes) -> tuple[str | None, bytes, bytes, bytes] | None:
    """Return the parts of a value that begins with `SEALED`; None if it is damaged.

    They are the id of the key (None if it is only compressed), the nonce, the ciphertext or the zstd frame,
    and the white space behind it. Plain slices in a tuple: this runs for each hit in Redis.
    """
    end = len(data)
    if data[-1] != _END_BYTE:
        end = len(data.rstrip(_SPACE))
        if data[end - 1] != _END_BYTE:
            return None
    if data.startswith(COMPRESSED):
        return None, b"", data[2 : end - 1], data[end:]
    if not data.startswith(ENCRYPTED) or end < 4:
        return None
    at = 3 + data[2]
    if end < at + NONCE_BYTES + 1:
        return None
    text = at + NONCE_BYTES
    return data[3:at].decode("ascii", "replace"), data[at:text], data[text : end - 1], data[end:]
