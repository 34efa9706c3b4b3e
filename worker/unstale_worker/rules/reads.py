"""The options of reads by key: ``[reads."..."]``, and the same fields in ``[refresh."..."]``. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from unstale_worker.rules.field_checks import DURATION_REMEDY, FieldChecker, seconds_of
from unstale_worker.rules.refresh import RefreshSpec, overlap
from unstale_worker.rules.template import Template
from unstale_worker.rules.toml_lines import Path

READ_FIELDS: Final = ("soft_timeout", "stale_if_error")
_EXAMPLE: Final = 'Write [reads."user:{user_id}:greeting"] and below it stale_if_error = "1h".'


@dataclass(frozen=True, slots=True)
class ReadSpec:
    """The options of the reads of one template's keys.

    Attributes:
        template: The keys.
        soft_timeout: Seconds of a load after which an older value is answered; 0: never.
        stale_if_error: Seconds for which a spare value is kept after the value; 0: not at all.
        line: Line of the table in its file, 1-based.
    """

    template: Template
    soft_timeout: float = 0.0
    stale_if_error: float = 0.0
    line: int = field(default=0, compare=False)

    @property
    def published(self) -> tuple[str, float, float]:
        """The form in which agents read it."""
        return self.template.pattern, self.soft_timeout, self.stale_if_error


def durations(check: FieldChecker, path: Path, block: dict[str, object]) -> tuple[float, float]:
    """Return the two options of a table; 0 where it has none."""
    found: list[float] = []
    for name in READ_FIELDS:
        seconds = seconds_of(block[name]) if name in block else 0.0
        if seconds is None:
            remedy = DURATION_REMEDY.replace('"30s"', '"250ms", "30s"')
            check.mistake((*path, name), block[name], "not a duration", remedy)
        found.append(seconds or 0.0)
    return found[0], found[1]


def parse_reads(
    check: FieldChecker, tables: object, refreshes: Sequence[RefreshSpec], watched: Sequence[Template]
) -> Iterator[ReadSpec]:
    """Yield the options of ``refreshes``, then those of ``[reads]``; the first that matches a key counts."""
    seen: dict[str, int] = {}
    for spec in refreshes:
        seen[spec.template.pattern] = spec.line
        if spec.soft_timeout or spec.stale_if_error:
            yield ReadSpec(spec.template, spec.soft_timeout, spec.stale_if_error, spec.line)
    if not isinstance(tables, dict):
        check.mistake(("reads",), tables, "must be tables named by a pattern", _EXAMPLE)
        return
    for name, block in tables.items():
        path: Path = ("reads", name)
        if not isinstance(block, dict):
            check.mistake(path, block, "must be a table named by a pattern", _EXAMPLE)
            continue
        template = check.read(path, name, Template.parse)
        for option in block:
            if option not in READ_FIELDS:
                check.unknown((*path, option), block[option], READ_FIELDS)
        soft, bound = durations(check, path, block)
        if template is None:
            continue
        if template.is_tag:
            remedy = "Nothing under a tag is answered later: name keys."
            check.mistake(path, name, "a tag", remedy)
        elif template.pattern in seen:
            problem = f"the same keys as on line {seen[template.pattern]}"
            check.mistake(path, name, problem, "Write all options into one of them.")
        elif not any(overlap(template, each) for each in watched if not each.is_tag):
            remedy = "For a key that no [[watch]] names, give the options to the read."
            check.mistake(path, name, "no [[watch]] invalidates such a key", remedy)
        else:
            seen[template.pattern] = check.line(path)
            yield ReadSpec(template, soft, bound, check.line(path))
