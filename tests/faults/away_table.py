"""The table of docs/away.md, as data."""

from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "away.md"
COLUMNS = ("get_or_load", "get", "set", "set, free key", "delete", "wait_for", "staleness", "subscribe")


@dataclass(frozen=True, slots=True)
class Row:
    """What is away, since when, and what each call then does, by column."""

    what: str
    when: str
    cells: dict[str, str]

    def __str__(self) -> str:
        return f"{self.what} {self.when}".strip().replace(" ", "-").replace(",", "").replace("`", "")


def rows() -> list[Row]:
    """Return every row of the page's first table; raise AssertionError if its columns are others."""
    page = PAGE.read_text().partition("\n**When** counts")[0]
    table = [line for line in page.splitlines() if line.startswith("|")]
    head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    assert tuple(cell.replace("`", "") for cell in head) == ("what", "when", *COLUMNS)
    return [Row(what, when, dict(zip(COLUMNS, cells, strict=True))) for what, when, *cells in body]
