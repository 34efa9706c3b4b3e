"""Compare what loaders were seen to read with the rules. Pure, apart from reading the recording."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unstale.companion.recording.reading import Observation, Table
from unstale.errors import ConfigurationError
from unstale.protocol.globs import matches
from unstale.protocol.tags import record
from unstale_worker.learn.left_out import LeftOut, left_out
from unstale_worker.learn.proposal import Proposal, propose, toml
from unstale_worker.rules import Rules, TableName


@dataclass(frozen=True, slots=True)
class Missing:
    """A table that the loader of a key reads and that no rule watches for that key.

    Attributes:
        keys: The keys, ``*`` for what varies.
        table: The table.
        key: One such key.
        statement: The beginning of the statement that reads the table.
        watched: True if a rule watches the table, but for other keys.
        toml: The rule that would watch it.
    """

    keys: str
    table: str
    key: str
    statement: str
    watched: bool
    toml: str

    def __str__(self) -> str:
        lacks = "no rule watches it for these keys" if self.watched else "no rule watches it"
        return f"{self.keys} reads {self.table}, and {lacks}: {self.statement}"


@dataclass(frozen=True, slots=True)
class Learned:
    """Result of the comparison.

    Attributes:
        statements: Number of pairs of keys and a statement.
        missing: Tables without a rule.
        toml: The rules that would watch them.
        doubts: What could not be followed, as sentences.
        columns: Columns of watched tables that the rules leave out.
        ignored: Number of such pairs that ``ignore_keys`` left out.
    """

    statements: int
    missing: tuple[Missing, ...]
    toml: str
    doubts: tuple[str, ...]
    columns: tuple[LeftOut, ...] = ()
    ignored: int = 0

    @property
    def empty(self) -> bool:
        """True if nothing was recorded, so nothing was compared."""
        return not self.statements and not self.ignored


def learn(rules: Rules | None, observations: Iterable[Observation]) -> Learned:
    """Compare; without rules every table is missing."""
    missing: dict[tuple[str, Table], tuple[Missing, Proposal]] = {}
    narrow: dict[tuple[str, Table], tuple[Observation, set[str]]] = {}
    doubts: dict[str, None] = {}
    count = ignored = 0
    for observation in observations:
        if rules is not None and any(matches(glob, observation.key) for glob in rules.unlearned_keys):
            ignored += 1
            continue
        count += 1
        doubts.update(dict.fromkeys(f"{observation.shape}: {doubt}" for doubt in observation.reading.doubts))
        for table, parts in observation.reading.tables.items():
            if rules is not None and _covered(rules, observation, table, parts):
                if names := left_out(rules, table, observation.reading.columns.get(table, ())):
                    narrow.setdefault((observation.shape, table), (observation, set()))[1].update(names)
                continue
            name = str(TableName(table.schema, table.name))
            watched = rules is not None and (table.schema, table.name) in rules.tables
            proposal, identity = propose(observation, table), (observation.shape, table)
            found = Missing(
                observation.shape, name, observation.key, observation.statement, watched, toml([proposal])
            )
            before = missing.get(identity)
            if before is None or _rank(proposal) < _rank(before[1]):
                missing[identity] = found, proposal
    pairs = [
        missing[identity] for identity in sorted(missing, key=lambda each: (each[1].schema, each[1].name))
    ]
    columns = [
        LeftOut(shape, str(TableName(table.schema, table.name)), tuple(sorted(names)), observation.statement)
        for (shape, table), (observation, names) in narrow.items()
    ]
    return Learned(
        count,
        tuple(found for found, _ in pairs),
        toml(each for _, each in pairs),
        tuple(doubts),
        tuple(sorted(columns, key=lambda each: (each.table, each.keys))),
        ignored,
    )


def _covered(rules: Rules, observation: Observation, table: Table, parts: tuple[Table, ...]) -> bool:
    """Return True if a rule invalidates the key or one of its tags when the table changes.

    It may also name every partition that was read of the table.
    """
    names = (observation.key, *map(record, observation.tags))
    if TableName(table.schema, table.name) in rules.unlearned_tables:
        return True
    watched = {
        watch.table
        for watch in rules.watches
        if any(matches(glob, name) for glob in watch.patterns for name in names)
    }
    if TableName(table.schema, table.name) in watched:
        return True
    return bool(parts) and all(TableName(part.schema, part.name) in watched for part in parts)


def _rank(proposal: Proposal) -> tuple[bool, bool, bool]:
    return not proposal.complete, proposal.everything, proposal.query is not None


def read_recording(path: Path) -> list[Observation]:
    """Read a recording: a file, or a folder with a file of each process."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    return [observation for file in files for observation in _read(file)]


def _read(file: Path) -> Iterator[Observation]:
    try:
        lines = file.read_text("utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(
            f"{file} cannot be read ({error.strerror}); record with `unstale learn -- COMMAND`, where "
            "COMMAND runs your tests or your application"
        ) from None
    for number, line in enumerate(lines, start=1):
        try:
            yield Observation.decode(line)
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigurationError(
                f"{file}:{number} is not a line of this version's recording ({error!r}); record again with "
                "`unstale learn -- COMMAND`"
            ) from None
