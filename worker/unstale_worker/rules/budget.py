"""The ``budget`` of a ``[refresh."..."]`` table: most calls of its loader in a window of time. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeAlias

from unstale_worker.rules.field_checks import FieldChecker
from unstale_worker.rules.identifiers import NameMistake
from unstale_worker.rules.toml_lines import Path

OverBudget: TypeAlias = Literal["serve_stale", "load_on_read"]
BUDGET_FIELDS: Final = ("budget", "over_budget")
TOTAL: Final = "total"
"""Name, in a table of budgets, of the one for all keys; a placeholder of this name comes first."""

_SECONDS: Final = {"m": 60, "h": 3_600, "d": 86_400}
_BUDGET: Final = re.compile(r"([1-9]\d{0,8})/([mhd])")
_EXAMPLE: Final = 'Write "5000/d", "200/h" or "10/m".'


@dataclass(frozen=True, slots=True)
class Budget:
    """Most calls of a loader in a window, over all processes.

    Windows are fixed: a minute, an hour or a day (UTC) of the clock of Redis.

    Attributes:
        most: Calls in a window.
        unit: ``m``, ``h`` or ``d``.
        field: Placeholder, each of whose values has so many calls; '': all keys share them.
    """

    most: int
    unit: str
    field: str = ""

    @property
    def seconds(self) -> int:
        """Length of a window."""
        return _SECONDS[self.unit]

    def __str__(self) -> str:
        each = f" for each {self.field}" if self.field else ""
        return f"{self.most}/{self.unit}{each}"


def parse_budgets(
    check: FieldChecker, path: Path, block: dict[str, object], placeholders: Sequence[str]
) -> tuple[Budget, ...]:
    """Read ``budget = "5000/d"``, or ``{ user_id = "50/d", total = "5000/d" }``."""
    if "budget" not in block:
        return ()
    given, path = block["budget"], (*path, "budget")
    if not isinstance(given, dict):
        budget = check.read(path, given, partial(_budget, field=""))
        return () if budget is None else (budget,)
    if not given:
        check.mistake(path, given, "is empty", f"{_EXAMPLE} Or name placeholders.")
    names = dict.fromkeys(placeholders)
    found: list[Budget] = []
    for name, text in given.items():
        if name not in names and name != TOTAL:
            known = ", ".join((*names, TOTAL))
            check.mistake((*path, name), text, f"{name} is not a placeholder of the key", f"Known: {known}.")
            continue
        field = name if name in names else ""
        budget = check.read((*path, name), text, partial(_budget, field=field))
        if budget is not None:
            found.append(budget)
    return tuple(found)


def parse_over_budget(
    check: FieldChecker, path: Path, block: dict[str, object], *, serves_stale: bool
) -> OverBudget:
    """Read ``over_budget``; without it an old value is served if ``serve_stale`` keeps one."""
    value = block.get("over_budget", "serve_stale" if serves_stale else "load_on_read")
    path = (*path, "over_budget")
    if "over_budget" in block and "budget" not in block:
        check.mistake(path, value, "there is no budget", 'Add budget = "5000/d", or remove it.')
    if value == "load_on_read":
        return "load_on_read"
    if value != "serve_stale":
        check.mistake(path, value, "not known", 'Write "serve_stale" or "load_on_read".')
    elif not serves_stale:
        check.mistake(path, value, "no old value is kept", 'Add serve_stale = "6h", or "load_on_read".')
    return "serve_stale"


def _budget(text: str, field: str) -> Budget:
    match = _BUDGET.fullmatch(text)
    if match is None:
        raise NameMistake("not a budget", remedy=_EXAMPLE)
    return Budget(int(match[1]), match[2], field)
