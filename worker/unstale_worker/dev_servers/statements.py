"""Split the text of an SQL file into statements, as psql does. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

from unstale.errors import ConfigurationError

_TOKEN = re.compile(
    r"""
      (?P<comment>--[^\n]*)
    | (?P<block>/\*)
    | (?P<escaped>\b[eE]'(?:[^'\\]++|\\.|'')*+')
    | (?P<quoted>'(?:[^']++|'')*+'|"(?:[^"]++|"")*+")
    | (?P<open>['"])
    | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
    | (?P<command>^\\[^\n]*)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<mark>[;()])
    | (?P<other>\S)
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_BLOCK_EDGE = re.compile(r"/\*|\*/")
_END_OF_DATA = re.compile(r"^\\\.[ \t]*$", re.MULTILINE)
_SHORT = 100
_IGNORED_COMMANDS = frozenset(
    {
        "\\restrict",
        "\\unrestrict",
        "\\set",
        "\\unset",
        "\\echo",
        "\\qecho",
        "\\timing",
        "\\pset",
        "\\encoding",
    }
)


class Kind(Enum):
    """How a statement is run."""

    NORMAL = auto()
    ALONE = auto()
    """Outside a transaction: Postgres refuses it inside one, or lets its effect be used after a commit."""
    BEGIN = auto()
    COMMIT = auto()
    ROLLBACK = auto()
    COPY = auto()
    """``copy … from stdin``, with its rows."""
    COMMAND = auto()
    """A command of psql, such as ``\\i``."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a file, without its semicolon."""

    text: str
    line: int
    """Line of its first word, from 1."""
    words: tuple[str, ...] = ()
    """Its words in lower case, without those in quotes."""
    data: str = field(default="", repr=False)
    """The rows of a ``copy … from stdin``."""

    @property
    def kind(self) -> Kind:
        """How it is run."""
        return _kind(self.text, self.words)

    @property
    def ignored(self) -> bool:
        """True for commands of psql that change nothing here."""
        return self.kind is Kind.COMMAND and self.text.split()[0] in _IGNORED_COMMANDS

    @property
    def short(self) -> str:
        """Its beginning in one line, for messages."""
        text = " ".join(self.text[: 4 * _SHORT].split())
        return text if len(text) <= _SHORT and len(self.text) <= 4 * _SHORT else f"{text[:_SHORT]}…"

    def line_at(self, position: int) -> int:
        """Return the line of the file of a character of `text`, counted from 1."""
        return self.line + self.text.count("\n", 0, max(0, position - 1))


def read_sql(path: Path) -> str:
    """Return the text of an SQL file: UTF-8, or UTF-16 as PowerShell writes it, with any line ends."""
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}:{line}: the file is not UTF-8; save it in this encoding") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def split(text: str) -> Iterator[Statement]:
    """Yield the statements of `text` in order, without comments around them."""
    lines = [0, *(match.end() for match in re.finditer("\n", text))]
    at = 0
    start, words, depth, atomic = -1, list[str](), 0, 0
    while match := _TOKEN.search(text, at):
        kind, at = match.lastgroup, match.end()
        if kind == "comment":
            continue
        if kind == "block":
            at = _after_block(text, at)
            continue
        if kind == "command":
            if start < 0:
                yield Statement(match.group().strip(), bisect_right(lines, match.start()))
                continue
            kind = "other"
        if start < 0 and match.group() != ";":
            start = match.start()
        if kind == "dollar":
            end = text.find(match.group(), at)
            at = len(text) if end < 0 else end + len(match.group())
        elif kind == "open":
            at = len(text)
        elif kind == "word":
            word = match.group().lower()
            # The body of an SQL function in standard form contains semicolons.
            if word == "atomic" and words[-1:] == ["begin"] and words[0] == "create":
                atomic = 1
            elif atomic and word in ("case", "end"):
                atomic += 1 if word == "case" else -1
            words.append(word)
        elif kind == "mark" and match.group() in "()":
            depth += 1 if match.group() == "(" else -1
        elif kind == "mark" and depth <= 0 and not atomic and start >= 0:
            statement = Statement(text[start : match.start()], bisect_right(lines, start), tuple(words))
            if statement.kind is Kind.COPY:
                data, at = _data(text, at)
                statement = Statement(statement.text, statement.line, statement.words, data)
            yield statement
            start, words, depth = -1, [], 0
    if start >= 0:
        yield Statement(text[start:].rstrip(), bisect_right(lines, start), tuple(words))


def _after_block(text: str, at: int) -> int:
    """Return the position after a comment, which may contain others."""
    depth = 1
    for edge in _BLOCK_EDGE.finditer(text, at):
        depth += 1 if edge.group() == "/*" else -1
        if not depth:
            return edge.end()
    return len(text)


def _data(text: str, at: int) -> tuple[str, int]:
    """Return the rows after a ``copy``, which begin on the next line, and the position after them."""
    begin = text.find("\n", at) + 1 or len(text)
    end = _END_OF_DATA.search(text, begin)
    return (text[begin:], len(text)) if end is None else (text[begin : end.start()], end.end())


def _kind(text: str, words: tuple[str, ...]) -> Kind:
    if text.startswith("\\"):
        return Kind.COMMAND
    match words:
        case ("begin", *_) | ("start", "transaction", *_):
            return Kind.BEGIN
        case ("commit" | "rollback", "prepared", *_):
            return Kind.ALONE
        case ("commit" | "end", *_):
            return Kind.COMMIT
        case ("rollback" | "abort", *rest) if "to" not in rest:
            return Kind.ROLLBACK
        case ("copy", *rest) if "stdin" in rest and "from" in rest:
            return Kind.COPY
        case ("create", "index", "concurrently", *_) | ("create", "unique", "index", "concurrently", *_):
            return Kind.ALONE
        case ("drop", "index", "concurrently", *_) | ("vacuum", *_) | ("alter", "system", *_):
            return Kind.ALONE
        case ("create" | "drop", "database" | "tablespace" | "subscription", *_) | ("discard", "all", *_):
            return Kind.ALONE
        case ("reindex", *rest) if {"concurrently", "database", "system"} & set(rest[:4]):
            return Kind.ALONE
        case ("alter", "table", *rest) if "detach" in rest and "concurrently" in rest:
            return Kind.ALONE
        case ("alter", "type", *rest) if "add" in rest and "value" in rest:
            return Kind.ALONE
        case _:
            return Kind.NORMAL
