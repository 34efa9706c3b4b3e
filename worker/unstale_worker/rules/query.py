"""A rule's fan-out query: its text, its placeholders, and what can be told of it without a database."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from unstale_worker.rules.identifiers import NameMistake, check_name, quote_identifier, unquote
from unstale_worker.rules.template import PLACEHOLDER

CHANGED: Final = "unstale changed"
"""Alias of the changed rows inside the statement; the space keeps it apart from any alias of the user's."""

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
class Token:
    """One token of SQL; ``kind`` is a group of the tokenizer, ``text`` as written."""

    kind: str
    text: str

    @property
    def word(self) -> str:
        """A bare word or a sign in lower case, else nothing: for comparing with keywords."""
        return self.text.lower() if self.kind in ("word", "sign") else ""

    @property
    def name(self) -> str | None:
        """The identifier this token is for Postgres, or None."""
        match self.kind:
            case "word":
                return self.text.lower()
            case "quoted" if self.text.startswith('"'):
                return unquote(self.text)
            case _:
                return None


@dataclass(frozen=True, slots=True)
class Query:
    """One select statement with ``{column}`` placeholders; made by `parse`, pure and hashable.

    Attributes:
        text: The query as written.
        tokens: Its tokens, without blanks and comments.
        columns: The columns of the changed row that it names, sorted, each once.
    """

    text: str
    tokens: tuple[Token, ...]
    columns: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Query":
        """Read a query; raises `NameMistake` that says what was expected.

        What only Postgres can tell (tables, types, syntax) is checked when the worker starts.
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
                    f"{token.text} has no value here", remedy="Write {column} for a changed row's value."
                )
            if token.text in ("{", "}"):
                raise NameMistake(
                    "a brace that belongs to no placeholder",
                    remedy='Write {column}, or {"Any Column"}, for a changed row\'s value.',
                )
            if token.kind == "string" and token.text[0] != "$" and (hole := _QUOTED_HOLE.search(token.text)):
                raise NameMistake(
                    f"the placeholder {hole[0]} stands inside quotes",
                    remedy="Write it without quotes: it is a bound value of the column's type, never text.",
                )
            if token.kind == "hole":
                column = unquote(token.text[1:-1])
                check_name(column)
                columns.add(column)
        return cls(text, tokens, tuple(sorted(columns)))

    @property
    def normal(self) -> str:
        """The query without what makes no difference: comments, blanks, the case of keywords."""
        return " ".join(token.text.lower() if token.kind == "word" else token.text for token in self.tokens)

    def bound(self) -> str:
        """The query as it stands in the statement: each placeholder is a column of `CHANGED`."""
        alias = quote_identifier(CHANGED)
        return self.written({column: f"{alias}.{quote_identifier(column)}" for column in self.columns})

    def written(self, values: Mapping[str, str]) -> str:
        """The query as written, an expression for each placeholder, without comments and final ``;``."""
        parts: list[str] = []
        for kind, text in _pieces(self.text):
            if kind == "hole":
                parts.append(values[unquote(text[1:-1])])
            else:
                parts.append(" " if kind == "comment" or text.startswith("--") else text)
        return "".join(parts).rstrip("; \t\r\n\f\v")


def _tokens(text: str) -> Iterator[Token]:
    for kind, piece in _pieces(text):
        if kind == "sign" and piece in ("'", '"'):
            raise NameMistake("a quote that is not closed", remedy="Close the string or the quoted name.")
        if kind not in ("blank", "comment"):
            yield Token(kind, piece)


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Kind and text of everything in ``text``, in order, nothing left out."""
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
    """Postgres' comments nest."""
    depth = 1
    for match in re.compile(r"/\*|\*/").finditer(text, at):
        depth += 1 if match[0] == "/*" else -1
        if not depth:
            return match.end()
    raise NameMistake("a comment that is not closed", remedy="Close it with */.")
