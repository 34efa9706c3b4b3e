"""A rule's fan-out query: its text, its placeholders, and the checks that need no database."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from unstale_worker.rules.identifiers import NameMistake, check_name, quote_identifier, unquote
from unstale_worker.rules.template import PLACEHOLDER

CHANGED: Final = "unstale changed"
"""Alias of the changed rows inside the statement; the space avoids a clash with the user's aliases."""

_TOKEN: Final = re.compile(
    r"""
    (?P<blank>   \s+ | --[^\n]* )
  | (?P<comment> /\* )
  | (?P<string>  [eE]'(?:[^'\\]|''|\\.)*' | (?:[bBxXnN]|[uU]&)?'(?:[^']|'')*'
               | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$ )
  | (?P<hole>    """
    + PLACEHOLDER.pattern
    + r""" )
  | (?P<quoted>  (?:[uU]&)?"(?:[^"]|"")+" )
  | (?P<param>   \$\d+ )
  | (?P<word>    [^\W\d][\w$]* )
  | (?P<number>  \d[\w.]* | \.\d\w* )
  | (?P<sign>    :: | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_QUOTED_HOLE: Final = re.compile(r"\{[^\W\d][\w$]*\}")


@dataclass(frozen=True, slots=True)
class SqlToken:
    """One token of SQL; ``kind`` is a group of the tokenizer, ``text`` is as written."""

    kind: str
    text: str

    @property
    def word(self) -> str:
        """A bare word or a sign in lower case, else empty; for comparison with keywords."""
        return self.text.lower() if self.kind in ("word", "sign") else ""

    @property
    def name(self) -> str | None:
        """The identifier that Postgres reads in this token, or None."""
        match self.kind:
            case "word":
                return self.text.lower()
            case "quoted" if self.text.startswith('"'):
                return unquote(self.text)
            case _:
                return None


@dataclass(frozen=True, slots=True)
class Query:
    """One select statement with ``{column}`` placeholders; created by `parse`, pure and hashable.

    Attributes:
        text: The query as written.
        tokens: Its tokens, without white space and comments.
        columns: Columns of the changed row that it names, sorted and unique.
    """

    text: str
    tokens: tuple[SqlToken, ...]
    columns: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Query":
        """Parse a query; raise `NameMistake` with the expected form.

        Tables, types and syntax are checked by Postgres when the worker starts.
        """
        tokens = tuple(_tokens(text))
        while tokens and tokens[-1].text == ";":
            tokens = tokens[:-1]
        if not tokens or tokens[0].word not in ("select", "with", "values", "table", "("):
            raise NameMistake(
                "not a select statement", remedy="Write one statement: select ... from ... where ..."
            )
        columns: set[str] = set()
        for token in tokens:
            if token.text == ";":
                raise NameMistake("more than one statement", remedy="Write one select statement.")
            if token.kind == "param":
                raise NameMistake(
                    f"the parameter {token.text} has no value",
                    remedy="Write {column} for a value of the changed row.",
                )
            if token.text in ("{", "}"):
                raise NameMistake(
                    "a brace without a placeholder",
                    remedy='Write {column}, or {"Any Column"}, for a value of the changed row.',
                )
            if token.kind == "string" and token.text[0] != "$" and (hole := _QUOTED_HOLE.search(token.text)):
                raise NameMistake(
                    f"the placeholder {hole[0]} is inside quotes",
                    remedy="Write it without quotes: it is a bound value of the column's type, never text.",
                )
            if token.kind == "hole":
                column = unquote(token.text[1:-1])
                check_name(column)
                columns.add(column)
        return cls(text, tokens, tuple(sorted(columns)))

    @property
    def normal(self) -> str:
        """The query without comments, white space and the case of keywords, which do not change it."""
        return " ".join(token.text.lower() if token.kind == "word" else token.text for token in self.tokens)

    @property
    def hash(self) -> str:
        """Hash of the normal form."""
        return hashlib.sha256(self.normal.encode()).hexdigest()[:16]

    def bound(self) -> str:
        """Return the query for the statement, with a column of `CHANGED` for each placeholder."""
        alias = quote_identifier(CHANGED)
        return self.written({column: f"{alias}.{quote_identifier(column)}" for column in self.columns})

    def written(self, values: Mapping[str, str]) -> str:
        """Return the query with an expression for each placeholder, without comments and final ``;``."""
        parts: list[str] = []
        for kind, text in _pieces(self.text):
            if kind == "hole":
                parts.append(values[unquote(text[1:-1])])
            else:
                parts.append(" " if kind == "comment" or text.startswith("--") else text)
        return "".join(parts).rstrip("; \t\r\n\f\v")


def _tokens(text: str) -> Iterator[SqlToken]:
    for kind, piece in _pieces(text):
        if kind == "sign" and piece in ("'", '"'):
            raise NameMistake("a quote is not closed", remedy="Close the string or the quoted name.")
        if kind not in ("blank", "comment"):
            yield SqlToken(kind, piece)


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Yield kind and text of every piece of ``text``, in order and without gaps."""
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise AssertionError("the last alternative matches any character")
        begin, at = at, match.end()
        kind = match.lastgroup or "sign"
        if kind == "comment":
            at = _after_comment(text, at)
        yield "string" if kind == "tag" else kind, text[begin:at]


def _after_comment(text: str, at: int) -> int:
    """Return the end of a comment; comments of Postgres nest."""
    depth = 1
    for match in re.compile(r"/\*|\*/").finditer(text, at):
        depth += 1 if match[0] == "/*" else -1
        if not depth:
            return match.end()
    raise NameMistake("a comment is not closed", remedy="Close it with */.")
