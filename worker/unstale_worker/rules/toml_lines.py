"""Parse TOML and find the line of each value.

`tomllib` parses and checks the text but reports no positions. A second pass over the valid text, `_Scanner`,
counts lines only, so that a mistake in a rule can name its file and line.
"""

import re
import tomllib
from bisect import bisect_right
from typing import Final

Path = tuple[str | int, ...]
"""Path to a value in a document: ``("watch", 0, "keys", 1)``."""

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_BARE_VALUE: Final = re.compile(r"[^,\]}\n#]*")
_ERROR_PLACE: Final = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")


class SyntaxMistake(ValueError):
    """The text is not valid TOML; ``line`` is 1-based."""

    def __init__(self, problem: str, *, line: int) -> None:
        self.problem, self.line = problem, line
        super().__init__(problem)


class Document:
    """A parsed TOML text: its data and the line of each value.

    Example:
        >>> document = Document.parse('[ttl]\\n"user:*" = "1h"\\n')
        >>> document.line(("ttl", "user:*"))
        2
    """

    __slots__ = ("_lines", "data")

    def __init__(self, data: dict[str, object], lines: dict[Path, int]) -> None:
        self.data = data
        self._lines = lines

    @classmethod
    def parse(cls, text: str) -> "Document":
        """Parse TOML; raise `SyntaxMistake`."""
        text = text.removeprefix("\ufeff").replace("\r\n", "\n")
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            place = _ERROR_PLACE.search(str(error))
            last = text.count("\n") + 1
            line = int(place[1]) if place and place[1] else last
            problem = _ERROR_PLACE.sub("", str(error))
            raise SyntaxMistake(f"not valid TOML: {problem}", line=line) from None
        except RecursionError:
            raise SyntaxMistake("not valid TOML: nested too deeply", line=1) from None
        return cls(data, _Scanner(text).run())

    def line(self, path: Path) -> int:
        """Return the 1-based line of ``path``, or of the nearest enclosing value; 0 for the whole file."""
        for length in range(len(path), 0, -1):
            found = self._lines.get(path[:length])
            if found is not None:
                return found
        return 0


class _Scanner:
    """Scanner for text that `tomllib` has accepted: it validates nothing and only counts lines."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._arrays: dict[tuple[str, ...], int] = {}
        self._lines: dict[Path, int] = {}

    def run(self) -> dict[Path, int]:
        """Return the first line of each path."""
        header: Path = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text.startswith("[[", self._at):
                self._at += 2
                names = self._key()
                self._arrays[names] = self._arrays.get(names, 0) + 1
                header = self._note(self._resolve(names))
                self._at += 2
            elif self._text[self._at] == "[":
                self._at += 1
                header = self._note(self._resolve(self._key()))
                self._at += 1
            else:
                self._assignment(header)
            self._skip(_BLANK)
        return self._lines

    def _resolve(self, names: tuple[str, ...]) -> Path:
        """Insert the current index after each name of an array of tables."""
        path: Path = ()
        for length, name in enumerate(names, start=1):
            count = self._arrays.get(names[:length])
            path += (name,) if count is None else (name, count - 1)
        return path

    def _note(self, path: Path) -> Path:
        line = bisect_right(self._starts, self._at)
        for length in range(1, len(path) + 1):
            self._lines.setdefault(path[:length], line)
        return path

    def _assignment(self, header: Path) -> None:
        start = self._at
        names = self._key()
        end, self._at = self._at, start
        path = self._note(header + names)
        self._at = end + 1  # the equals sign
        self._value(path)

    def _key(self) -> tuple[str, ...]:
        """Read a key of one or more parts; stop at the ``=`` or ``]`` that ends it."""
        names: list[str] = []
        while True:
            self._skip(_SPACE)
            if self._text[self._at] in "\"'":
                start = self._at
                self._string()
                names.append(_unquote(self._text[start : self._at]))
            else:
                names.append(self._skip(_BARE_KEY))
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return tuple(names)
            self._at += 1

    def _value(self, path: Path) -> None:
        self._skip(_SPACE)
        match self._text[self._at : self._at + 1]:
            case '"' | "'":
                self._string()
            case "[":
                self._at += 1
                count = 0
                while not self._ends("]"):
                    self._value(self._note((*path, count)))
                    count += 1
            case "{":
                self._at += 1
                while not self._ends("}"):
                    self._assignment(path)
            case _:
                self._skip(_BARE_VALUE)

    def _ends(self, closing: str) -> bool:
        """Skip blanks and a comma, then ``closing``; return True if it was there."""
        self._skip(_BLANK)
        if self._text.startswith(",", self._at):
            self._at += 1
            self._skip(_BLANK)
        if self._text.startswith(closing, self._at):
            self._at += 1
            return True
        return self._at >= len(self._text)

    def _string(self) -> None:
        quote = self._text[self._at]
        long = self._text.startswith(quote * 3, self._at)
        fence = quote * 3 if long else quote
        self._at += len(fence)
        while not self._text.startswith(fence, self._at):
            self._at += 2 if quote == '"' and self._text[self._at] == "\\" else 1
        self._at += len(fence)
        while long and self._text.startswith(quote, self._at):  # up to two more quotes may be content
            self._at += 1

    def _skip(self, expression: re.Pattern[str]) -> str:
        match = expression.match(self._text, self._at)
        if match is None:
            raise AssertionError("the scanner only reads what tomllib has accepted")
        self._at = match.end()
        return match[0]


def _unquote(quoted: str) -> str:
    (name,) = tomllib.loads(f"{quoted} = 0")
    return name
