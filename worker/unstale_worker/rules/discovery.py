"""Find the rules file: ``unstale.toml``, else ``[tool.unstale]`` in ``pyproject.toml``."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unstale.errors import RuleError
from unstale_worker.rules import toml_lines

FILE: Final = "unstale.toml"
PROJECT: Final = "pyproject.toml"
_REMEDY: Final = (
    f"Write {FILE} next to your supabase/ folder, or [tool.unstale] in {PROJECT}: see docs/rules.md."
)


class NoRules(RuleError):
    """There is no rules file."""


@dataclass(frozen=True, slots=True)
class Found:
    """The text of a rules file.

    Attributes:
        file: File name for error messages.
        text: Content of the file.
        base: Path to the rules inside the document.
    """

    file: str
    text: str
    base: toml_lines.Path


def read(path: Path | None, *, root: Path) -> Found:
    """Read ``path``, or the nearest rules file from ``root`` upwards; raises `RuleError`."""
    if path is not None:
        base: toml_lines.Path = ("tool", "unstale") if path.name == PROJECT else ()
        return Found(str(path), _text(path), base)
    for folder in (start := root.resolve(), *start.parents):
        rules, project = folder / FILE, folder / PROJECT
        if rules.exists():
            return Found(_display(rules, root), _text(rules), ())
        if project.is_file() and _has_rules(text := _text(project)):
            return Found(_display(project, root), text, ("tool", "unstale"))
    raise NoRules(
        file=FILE, line=0, field="file", value=str(root), remedy=_REMEDY,
        problem=f"no rules found in {start} or above",
    )  # fmt: skip


def _has_rules(text: str) -> bool:
    """Return True if a pyproject.toml has ``[tool.unstale]``.

    A file that is not valid TOML counts if it contains the text ``tool.unstale``, so that its mistake is
    reported.
    """
    try:
        tool = tomllib.loads(text).get("tool")
    except tomllib.TOMLDecodeError:
        return "tool.unstale" in text
    return isinstance(tool, dict) and "unstale" in tool


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _error(str(path), str(path), f"not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise _error(str(path), str(path), f"cannot be read ({error.strerror})") from None


def _display(path: Path, root: Path) -> str:
    """Path for messages: relative if the file is below the start of the search, else absolute."""
    try:
        return str(path.relative_to(root.resolve()))
    except ValueError:
        return str(path)


def _error(file: str, value: str, problem: str) -> RuleError:
    return RuleError(file=file, line=0, field="file", value=value, problem=problem, remedy=_REMEDY)
