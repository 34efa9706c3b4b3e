"""Tokens that calls of OpenAI use, as the responses to the pool's clients say.

Chat completions and embeddings name ``prompt_tokens`` and ``completion_tokens``, everything newer names
``input_tokens`` and ``output_tokens``. In a stream the last event that has a ``usage`` counts. A stream of
chat completions has one only with ``stream_options={"include_usage": True}``.
"""

import json
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import httpx2

MOST_BYTES: Final = 16 * 1024 * 1024
"""A larger body, or line of a stream, is not searched for a ``usage``."""

_current: ContextVar["Usage | None"] = ContextVar("_current", default=None)


@dataclass(slots=True)
class Usage:
    """Tokens of some calls.

    Attributes:
        tokens_in: Tokens of prompts.
        tokens_out: Tokens of answers.
    """

    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of prompts, and of answers."""
        return self.tokens_in, self.tokens_out


@contextmanager
def counted(usage: Usage) -> Iterator[None]:
    """Add to ``usage`` the tokens of requests that are sent inside, also by tasks that start here."""
    before = _current.set(usage)
    try:
        yield
    finally:
        _current.reset(before)


async def follow(response: "httpx2.Response") -> None:
    """Read the usage out of a response while its body is read: an event hook of ``httpx2.AsyncClient``."""
    reader = _reader(response)
    if reader is None:
        return
    read = response.aiter_bytes

    async def aiter_bytes(chunk_size: int | None = None) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(read(chunk_size)) as parts:
                async for part in parts:
                    reader.feed(part)
                    yield part
        finally:
            reader.end()

    vars(response)["aiter_bytes"] = aiter_bytes


def follow_sync(response: "httpx2.Response") -> None:
    """Do the same as an event hook of ``httpx2.Client``."""
    reader = _reader(response)
    if reader is None:
        return
    read = response.iter_bytes

    def iter_bytes(chunk_size: int | None = None) -> Generator[bytes, None, None]:
        try:
            for part in read(chunk_size):
                reader.feed(part)
                yield part
        finally:
            reader.end()

    vars(response)["iter_bytes"] = iter_bytes


class _Reader:
    """Looks for the usage in a body: in each line of a stream, or in the whole."""

    def __init__(self, usage: Usage, *, stream: bool) -> None:
        self._usage, self._stream = usage, stream
        self._rest = bytearray()
        self._found = (0, 0)
        self._ended = False

    def feed(self, part: bytes) -> None:
        if self._ended:
            return
        self._rest += part
        if self._stream:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                self._look(line)
        if len(self._rest) > MOST_BYTES:
            self._rest = bytearray()

    def end(self) -> None:
        """Look at the rest, once: a body that was kept may be read again."""
        if self._ended:
            return
        self._ended = True
        self._look(self._rest)
        self._rest = bytearray()

    def _look(self, text: bytearray) -> None:
        if b'"usage"' not in text:
            return
        try:
            said = json.loads(text.removeprefix(b"data:") if self._stream else text)
        except ValueError:
            return
        if isinstance(said, dict):
            inner = said.get("response")
            usage = said.get("usage") or (inner.get("usage") if isinstance(inner, dict) else None)
            if isinstance(usage, dict):
                self._found_now(usage)

    def _found_now(self, usage: dict[str, Any]) -> None:
        """Count it at once, instead of what an earlier event of the stream said.

        A client leaves a stream at its last event, without reading it to its end.
        """
        before = self._found
        self._found = (
            _tokens(usage, "prompt_tokens", "input_tokens"),
            _tokens(usage, "completion_tokens", "output_tokens"),
        )
        self._usage.tokens_in += self._found[0] - before[0]
        self._usage.tokens_out += self._found[1] - before[1]


def _tokens(usage: dict[str, Any], *names: str) -> int:
    return next((number for name in names if isinstance(number := usage.get(name), int)), 0)


def _reader(response: "httpx2.Response") -> _Reader | None:
    usage = _current.get()
    kind = response.headers.get("content-type", "").partition(";")[0].strip()
    if usage is None or not response.is_success or kind not in ("application/json", "text/event-stream"):
        return None
    return _Reader(usage, stream=kind == "text/event-stream")
