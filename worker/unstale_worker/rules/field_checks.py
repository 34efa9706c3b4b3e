"""Read the fields of a rules file and record every mistake with file, line, field, value and remedy."""

import difflib
import re
from collections.abc import Callable
from typing import Final, TypeVar

from unstale.errors import RuleError
from unstale.protocol import durations
from unstale_worker.rules.identifiers import NameMistake
from unstale_worker.rules.toml_lines import Document, Path

DURATION_REMEDY: Final = 'Write "30s", "2m", "1h30m", "7d" or a whole number of seconds, at most ten years.'

T = TypeVar("T")


class FieldChecker:
    """Typed access to the fields of one document; mistakes are collected in ``errors``.

    Args:
        document: The parsed TOML.
        file: The file as the user named it, for the errors.
        base: Path to the rules in the document: ``()``, or ``("tool", "unstale")``.
    """

    def __init__(self, document: Document, *, file: str, base: Path = ()) -> None:
        self.errors: list[RuleError] = []
        self.document = document
        self.file = file
        self.base = base
        self._meant: set[Path] = set()

    def one(
        self,
        block: dict[str, object],
        path: Path,
        name: str,
        read: Callable[[str], T],
        example: str,
        *,
        required: bool = True,
    ) -> T | None:
        """Parse one string field; None if it is missing or a mistake was recorded."""
        if name not in block:
            if required:
                self.missing(path, block, name, example)
            return None
        return self.read((*path, name), block[name], read)

    def many(
        self,
        block: dict[str, object],
        path: Path,
        name: str,
        read: Callable[[str], T],
        example: str,
        *,
        required: bool = True,
    ) -> tuple[T, ...] | None:
        """Parse a list of strings; None if it is missing or a mistake was recorded."""
        if name not in block:
            if required:
                self.missing(path, block, name, example)
            return None
        values = block[name]
        if not isinstance(values, list) or not values:
            self.mistake((*path, name), values, "must be a list that is not empty", 'Write ["...", "..."].')
            return None
        found: dict[T, None] = {}
        for number, value in enumerate(values):
            item = self.read((*path, name, number), value, read)
            if item is None:
                continue
            if item in found:
                self.mistake((*path, name, number), value, "listed twice", "Remove one of them.")
            found[item] = None
        return tuple(found)

    def flag(self, block: dict[str, object], path: Path, name: str, *, default: bool) -> bool:
        """Read a boolean field."""
        value = block.get(name, default)
        if not isinstance(value, bool):
            self.mistake(
                (*path, name), value, "must be true or false", f"Write {name} = true, without quotes."
            )
            return default
        return value

    def read(self, path: Path, value: object, read: Callable[[str], T]) -> T | None:
        """Parse one string with ``read``; record the `NameMistake` it raises."""
        if not isinstance(value, str):
            self.mistake(path, value, "must be a string", "Put it in quotes.")
            return None
        try:
            return read(value)
        except NameMistake as mistake:
            self.mistake(path, value, mistake.problem, mistake.remedy)
            return None

    def unknown(self, path: Path, value: object, known: tuple[str, ...]) -> None:
        """Record an unknown field, and suggest the field that was probably meant."""
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        self._meant.update((*path[:-1], name) for name in near)
        remedy = f"Did you mean {near[0]}?" if near else f"Known fields: {', '.join(known)}."
        self.mistake(path, value, "unknown field", remedy)

    def missing(self, path: Path, block: dict[str, object], name: str, example: str) -> None:
        """Record a missing field, unless `unknown` has already suggested ``name`` for a misspelt one."""
        if not self.meant(path, name):
            self.mistake(path, block, f"{name} is missing", example)

    def meant(self, path: Path, name: str) -> bool:
        """Return True if `unknown` has suggested the field ``name``."""
        return (*path, name) in self._meant

    def mistake(self, path: Path, value: object, problem: str, remedy: str) -> None:
        """Record a mistake in the ``value`` at ``path``."""
        field = _field(path) or _field(self.base) or "file"
        self.errors.append(
            RuleError(
                file=self.file,
                line=self.line(path),
                field=field,
                value=value,
                problem=problem,
                remedy=remedy,
            )
        )

    def line(self, path: Path) -> int:
        """Return the 1-based line of ``path`` in the file."""
        return self.document.line(self.base + path)


def _field(path: Path) -> str:
    """Format a path as ``watch[0].keys[1]``, with indexes from 0 and unusual names in double quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[\w-]+", part):
            text += f".{part}" if text else part
        else:
            text += f'."{part}"' if text else f'"{part}"'
    return text


def seconds_of(value: object, *, zero: bool = False) -> float | None:
    """Parse ``"1h30m"``, ``"250ms"`` or a whole number of seconds; None for anything else.

    More than ten years is None, too. Zero is None unless ``zero`` is True.
    """
    if isinstance(value, str) and (parsed := durations.seconds_of(value)) is not None:
        total = parsed
    elif isinstance(value, int) and not isinstance(value, bool):
        total = float(min(value, 2**53))
    else:
        return None
    return total if (zero or total > 0) and 0 <= total <= durations.MAX_SECONDS else None
