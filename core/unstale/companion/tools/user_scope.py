"""Keys and patterns of one user; no I/O."""

from typing import Final

from unstale.errors import ToolError
from unstale.protocol.globs import check_glob, escape_glob

SPACE: Final = "user:"
"""Prefix of the keys of all users; the id and another colon follow."""
MAX_ID_BYTES: Final = 200
MAX_TEXT_BYTES: Final = 256
MAX_STARS: Final = 4
"""Most stars in a pattern; each further one can double the work of Redis per key."""


class UserKeys:
    """The keys ``user:{id}:…`` of one user.

    Every key and pattern returned begins with exactly this prefix, taken literally, for any text of a model.

    Example:
        >>> keys = UserKeys(1)
        >>> keys.pattern("*"), keys.key("profile")
        ('user:1:*', 'user:1:profile')
    """

    __slots__ = ("prefix",)

    def __init__(self, user_id: object) -> None:
        """Take ``user_id`` from your session, never from a model; raises ValueError if it is not an id."""
        if isinstance(user_id, bool) or user_id is None:
            raise ValueError(f"user id {user_id!r} is not an id")
        text = str(user_id)
        if not text or text != text.strip():
            raise ValueError(f"user id {text!r} is empty or has blanks around it")
        if ":" in text:
            # The keys of user "1:x" would be among those of user "1".
            raise ValueError(f"user id {text!r} contains ':', which separates the parts of a key")
        if _unfit(text, MAX_ID_BYTES):
            raise ValueError(f"user id {text[:60]!r} is longer than {MAX_ID_BYTES} bytes or not printable")
        self.prefix = f"{SPACE}{text}:"

    def key(self, text: object) -> str:
        """Return the full key for a model's ``profile`` or ``user:1:profile``; raises `ToolError`."""
        return self.prefix + self._own_part(text, what="key", example="profile")

    def pattern(self, text: object) -> str:
        """Return the Redis glob for a model's pattern within this user's keys; raises `ToolError`."""
        own = self._own_part(text, what="pattern", example="*")
        if own.count("*") > MAX_STARS:
            raise ToolError(f"A pattern may have at most {MAX_STARS} stars. Use '*' for everything.")
        try:
            return check_glob(escape_glob(self.prefix) + own)
        except ValueError:
            raise ToolError(
                "A range in [...] may only go from one ASCII character to another. Use '?' or '*' instead."
            ) from None

    @property
    def everything(self) -> str:
        """Redis glob of all keys of this user."""
        return escape_glob(self.prefix) + "*"

    def name(self, key: str) -> str | None:
        """Return the key without the user's prefix, or None if it belongs to another user."""
        return key[len(self.prefix) :] if key.startswith(self.prefix) else None

    def _own_part(self, text: object, *, what: str, example: str) -> str:
        if not isinstance(text, str):
            raise ToolError(f"The {what} has to be a string, such as '{example}'.")
        own = text.removeprefix(self.prefix)
        if own == text and text.startswith(SPACE):
            raise ToolError(
                f"Only the current user's keys can be reached. Give the {what} without 'user:' and the id, "
                f"such as '{example}'."
            )
        if not own.strip():
            raise ToolError(f"The {what} is empty. Give one such as '{example}'.")
        if _unfit(own, MAX_TEXT_BYTES):
            raise ToolError(
                f"The {what} is longer than {MAX_TEXT_BYTES} bytes or has unprintable characters."
            )
        return own

    def __repr__(self) -> str:
        return f"<UserKeys {self.prefix}*>"


def _unfit(text: str, limit: int) -> bool:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # a lone surrogate, which Redis cannot store
        return True
    return size > limit or not text.isprintable()
