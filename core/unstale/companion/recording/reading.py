"""The tables that one statement reads, and their record in a file. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

_SEPARATORS: Final = re.compile(r"([:/|])")
_VARIABLE: Final = re.compile(r"\d+|[0-9a-fA-F-]{8,}|[^@\s]+@[^@\s]+")


@dataclass(frozen=True, slots=True)
class Table:
    """A table by its names in the catalog."""

    schema: str
    name: str


@dataclass(frozen=True, slots=True)
class Equal:
    """A condition that holds for every row the statement reads: a column equals a column, or a parameter.

    Attributes:
        table: The table of the column.
        column: The column.
        other: The other column's table, or None.
        other_column: The other column, or None.
        parameter: The number of the parameter, or None.
    """

    table: Table
    column: str
    other: Table | None = None
    other_column: str | None = None
    parameter: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """The tables that one statement reads.

    Attributes:
        tables: Each table, with the partitions of it that were read by their own names.
        equal: Conditions of the statement, from which a rule is proposed.
        doubts: Sentences about what could not be followed.
        columns: The columns of each table that the statement is known to need, without the primary key. It
            may need more: those that functions read, and those of ``select *``, are not known.
    """

    tables: Mapping[Table, tuple[Table, ...]] = field(default_factory=dict)
    equal: tuple[Equal, ...] = ()
    doubts: tuple[str, ...] = ()
    columns: Mapping[Table, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observation:
    """A statement that the loader of a key ran.

    Attributes:
        key: The key, the first that was seen of its shape.
        shape: The key with ``*`` for every segment that varies.
        holes: Position of a segment of the key that equals a value of the statement, and the number of that
            parameter.
        statement: The statement, shortened.
        reading: What it reads.
        tags: The tags of the value, each with its own holes.
    """

    key: str
    shape: str
    holes: Mapping[int, int]
    statement: str
    reading: Reading
    tags: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    def encode(self) -> str:
        """Return one line of JSON."""
        tables = [
            [asdict(table), [asdict(part) for part in parts]] for table, parts in self.reading.tables.items()
        ]
        equal = [asdict(each) for each in self.reading.equal]
        columns = [[asdict(table), names] for table, names in self.reading.columns.items()]
        data = {
            "key": self.key,
            "shape": self.shape,
            "holes": self.holes,
            "statement": self.statement,
            "tags": self.tags,
            "reading": {"tables": tables, "equal": equal, "doubts": self.reading.doubts, "columns": columns},
        }
        return json.dumps(data, ensure_ascii=False)

    @classmethod
    def decode(cls, line: str) -> "Observation":
        """Read what `encode` wrote; raises ValueError, TypeError or KeyError for anything else."""
        data: dict[str, Any] = json.loads(line)
        reading = data["reading"]
        return cls(
            data["key"],
            data["shape"],
            _holes(data["holes"]),
            data["statement"],
            Reading(
                {
                    Table(**table): tuple(Table(**part) for part in parts)
                    for table, parts in reading["tables"]
                },
                tuple(_equal(each) for each in reading["equal"]),
                tuple(reading["doubts"]),
                {Table(**table): tuple(names) for table, names in reading["columns"]},
            ),
            {tag: _holes(holes) for tag, holes in data["tags"].items()},
        )

    def of_tag(self, tag: str) -> "Observation":
        """Return the same for a tag in place of the key."""
        holes = self.tags[tag]
        return replace(self, key=tag, shape=shape_of(tag, holes), holes=holes)


def _holes(data: dict[str, Any]) -> dict[int, int]:
    return {int(segment): int(number) for segment, number in data.items()}


def _equal(data: dict[str, Any]) -> Equal:
    other = None if data["other"] is None else Table(**data["other"])
    return Equal(Table(**data["table"]), data["column"], other, data["other_column"], data["parameter"])


def segments(key: str) -> list[str]:
    """Split a key at its separators, which are kept at the odd positions."""
    return _SEPARATORS.split(key)


def holes_of(key: str, arguments: Sequence[object]) -> dict[int, int]:
    """Return which segments of ``key`` equal a value of the statement."""
    found: dict[int, int] = {}
    parts = segments(key)
    for number, argument in enumerate(arguments, start=1):
        values = argument if isinstance(argument, list | tuple | set | frozenset) else (argument,)
        texts = {str(value) for value in values if value is not None and not isinstance(value, bool)}
        for at in range(0, len(parts), 2):
            if parts[at] in texts:
                found.setdefault(at, number)
    return found


def guessed_hole(key: str, reading: Reading) -> dict[int, int]:
    """Return the hole of ``key`` for a statement of unknown values, if there is only one it can have."""
    varying = [at for at, part in enumerate(segments(key)) if not at % 2 and _VARIABLE.fullmatch(part)]
    numbers = {each.parameter for each in reading.equal} - {None}
    return {varying[0]: 1} if len(varying) == 1 and numbers == {1} else {}


def shape_of(key: str, holes: Mapping[int, int]) -> str:
    """Return ``key`` with ``*`` for every segment that equals a value, or looks like an id."""
    parts = segments(key)
    return "".join(
        "*" if at in holes or (not at % 2 and _VARIABLE.fullmatch(part)) else part
        for at, part in enumerate(parts)
    )
