"""Print the results of commands: formatted on a terminal, plain lines or JSON elsewhere."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unstale.protocol.tags import shown
from unstale_worker.cli.tail import Line
from unstale_worker.doctor import Finding, Severity
from unstale_worker.forecast.migrations import Compared, Difference
from unstale_worker.learn.report import Learned
from unstale_worker.learn.run import report
from unstale_worker.migration.writer import WrittenMigration
from unstale_worker.refresh.redis.dead_letters import DeadLetter

_COLORS = {
    Severity.OK: "green",
    Severity.INFO: "cyan",
    Severity.WARNING: "yellow",
    Severity.ERROR: "bold red",
}


SHOWN_KEYS = 8
"""Keys of one invalidation that are shown; --json has all."""


class Output:
    """Output of one command; each line is flushed, so that a pipe receives it at once.

    Args:
        json: Print JSON instead of text.
        repeating: On a terminal, let `pairs` replace its previous output.
    """

    def __init__(self, *, json: bool, repeating: bool = False) -> None:
        self._json, self._repeating = json, repeating
        self._console = Console(soft_wrap=True, highlight=False)

    def findings(self, findings: Sequence[Finding]) -> None:
        """Print the doctor's findings, the most severe last."""
        if self._json:
            self._print_json({"findings": [asdict(finding) for finding in findings]})
            return
        for finding in sorted(findings, key=lambda finding: list(Severity).index(finding.severity)):
            self._console.print(
                Text.assemble(
                    (f"{finding.severity:<8}", _COLORS[finding.severity]),
                    (f"{finding.subject}: ", "bold"),
                    finding.finding,
                )
            )
            if finding.remedy:
                self._console.print(Text(f"        {finding.remedy}", "dim"))

    def learned(self, found: Learned) -> None:
        """Print which rules are missing, and the rules to add."""
        if self._json:
            self._print_json(asdict(found))
        else:
            self._console.print(report(found), markup=False, end="")

    def pairs(self, pairs: Iterable[tuple[str, str]], data: dict[str, object]) -> None:
        """Print names and values."""
        if self._json:
            self._print_json(data)
            return
        if self._console.is_terminal:
            if self._repeating:
                self._console.clear()
            table = Table.grid(padding=(0, 2))
            table.add_column(style="dim")
            table.add_column()
            for name, value in pairs:
                table.add_row(name, Text(value))
            self._console.print(table)
        else:
            for name, value in pairs:
                self._console.print(f"{name}: {value}", markup=False)

    def dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Print the keys whose refresh has failed permanently."""
        if self._json:
            self._print_json({"dead_letters": [letter.as_dict() for letter in letters]})
        elif not letters:
            self._console.print("no dead letters")
        for letter in () if self._json else letters:
            self._console.print(letter.line(), markup=False)

    def done(self, text: str, data: dict[str, object]) -> None:
        """Print the result of an action."""
        if self._json:
            self._print_json(data)
        else:
            self._console.print(text, markup=False)

    def tail(self, line: Line) -> None:
        """Print one invalidation."""
        if self._json:
            self._print_json(asdict(line))
            return
        clock = time.strftime("%H:%M:%S", time.localtime(line.at)) + f"{line.at % 1:.3f}"[1:]
        age = "?" if line.watermark_age is None else f"{line.watermark_age:.3f} s"
        text = Text.assemble(
            (f"{clock}  ", "dim"), (f"{line.epoch[:8]} #{line.id}", "cyan"), (f"  watermark {age}  ", "dim")
        )
        if line.missed:
            text.append(f"({line.missed} missed before) ", "yellow")
        if line.kind is not None:
            changes = ", ".join(f"{each.count} {each.operation} of {each.table}" for each in line.changes)
            by = f" by {line.process}" if line.process else ""
            text.append(f"{changes or line.kind}{by}: ", "magenta")
        if len(line.keys) > SHOWN_KEYS:
            text.append(f"{len(line.keys)} keys ")
        keys = [*map(shown, line.keys[:SHOWN_KEYS]), *(["…"] if len(line.keys) > SHOWN_KEYS else [])]
        text.append(" ".join((*keys, *(f"{shown(pattern)} (pattern)" for pattern in line.patterns))))
        self._console.print(text)

    def migration(self, result: WrittenMigration, folder: Path, compared: Compared) -> None:
        """Print the written files, or that none was needed; then what the database lacks."""
        written = [*result.base, *([result.path] if result.path else [])]
        if self._json:
            self._print_json({"written": written, "doubts": result.doubts, **_compared(compared)})
            return
        if result.unchanged:
            self._console.print(f"nothing to write: the files in {folder} match the rules", markup=False)
        if result.renewed:
            self._console.print("unstale's own migrations have changed: every watch is written again")
        for path in written:
            self._console.print(f"wrote {path}", markup=False)
        for doubt in result.doubts:
            self._console.print(Text(doubt, "yellow"))
        self._lines(compared.differences)
        if not result.unchanged:
            push = "push it with `supabase db push`; a running `unstale dev` applies it by itself"
            self._console.print(push, markup=False)
        elif compared.skipped:
            self._console.print(f"the database was not compared: {compared.skipped}", markup=False)

    def migration_check(self, found: Sequence[Difference], compared: Compared) -> None:
        """Print how migrations and database differ from the rules, and if the database was left out."""
        if self._json:
            self._print_json(_compared(Compared(tuple(found), compared.skipped)))
            return
        self._lines(found)
        if not found:
            self._console.print("the migrations match the rules", markup=False)
        if compared.skipped:
            remedy = "; `--offline` compares the files only" if compared.failed else ""
            self._console.print(f"the database was not compared: {compared.skipped}{remedy}", markup=False)

    def _lines(self, found: Iterable[Difference]) -> None:
        for difference in found:
            self._console.print(Text(str(difference), "yellow"))

    def _print_json(self, data: object) -> None:
        self._console.file.write(orjson.dumps(data, default=str).decode() + "\n")
        self._console.file.flush()


def printable(line: str) -> str:
    """Return a line in which no character moves the cursor of a terminal: a key may hold any."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def _compared(compared: Compared) -> dict[str, object]:
    found = [asdict(difference) for difference in compared.differences]
    return {"differences": found, "database_not_compared": compared.skipped or None}
