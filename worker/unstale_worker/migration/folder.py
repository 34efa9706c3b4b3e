"""The user's folder of migrations, and the state that unstale's files in it add up to."""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from unstale.errors import ConfigurationError
from unstale_worker.rules import TableName, TableNeeds

_NAME: Final = re.compile(r"([0-9]+)_(.*\.sql)")
_RECORD: Final = re.compile(r"-- unstale: (rules|watches|unwatches|reads|unreads|asks|unasks) (.*)")
GENERATED: Final = "-- unstale: rules "
"""Contained in every file that ``unstale migration`` made from rules."""
_STAMP: Final = "%Y%m%d%H%M%S"


@dataclass(slots=True)
class CaptureState:
    """The state of a database after all generated files are applied.

    Attributes:
        watched: Watched tables, with the columns of their captures.
        reads: Tables that the worker may read.
        queries: Hashes of the queries that have a function.
        hash: The hash in the newest file, or None.
    """

    watched: dict[TableName, TableNeeds] = field(default_factory=dict)
    reads: set[TableName] = field(default_factory=set)
    queries: set[str] = field(default_factory=set)
    hash: str | None = None


class Folder:
    """A folder such as ``supabase/migrations``, which need not exist yet.

    File names have the form that the Supabase command line expects: digits, ``_``, a name, ``.sql``.

    Args:
        path: The folder.
        dry: Only remember what `add` would write.
    """

    def __init__(self, path: Path, *, dry: bool = False) -> None:
        self.path, self._dry = path, dry
        names = sorted(child.name for child in path.iterdir()) if path.is_dir() else []
        self._files = {name: match for name in names if (match := _NAME.fullmatch(name))}

    def newest(self, what: str) -> str | None:
        """Return the text of the newest file of this name, apart from its digits, or None."""
        found = [(int(match[1]), name) for name, match in self._files.items() if match[2] == what]
        return self._text(max(found)[1]) if found else None

    def next_version(self, *, now: datetime, wish: str = "") -> str:
        """Return digits that sort after every file: ``wish`` if possible, else ``now``, else the next one."""
        last = max((int(match[1]) for match in self._files.values()), default=0)
        if wish and int(wish) > last:
            return wish
        version = now.astimezone(UTC).strftime(_STAMP)
        if int(version) > last:
            return version
        try:
            later = datetime.strptime(str(last), _STAMP).replace(tzinfo=UTC) + timedelta(seconds=1)
        except (ValueError, OverflowError):
            return str(last + 1)
        return later.strftime(_STAMP)

    def add(self, version: str, what: str, text: str) -> Path:
        """Write a new file; raises `ConfigurationError` if that is not possible."""
        path = self.path / f"{version}_{what}"
        try:
            if not self._dry:
                self.path.mkdir(parents=True, exist_ok=True)
                with path.open("x", encoding="utf-8", newline="\n") as file:
                    file.write(text)
        except OSError as error:
            raise ConfigurationError(
                f"cannot write {path} ({error.strerror}); check the folder and its permissions"
            ) from error
        match = _NAME.fullmatch(path.name)
        assert match is not None
        self._files[path.name] = match
        return path

    def state(self) -> CaptureState:
        """Replay the headers of all generated files in the order in which they are applied."""
        state = CaptureState()
        for name in sorted(self._files, key=lambda name: int(self._files[name][1])):
            try:
                _replay(self._text(name), state)
            except (ValueError, TypeError) as error:
                raise ConfigurationError(
                    f"{name}: the header written by unstale was changed ({error}); restore it, or delete the "
                    "file if it was never pushed"
                ) from None
        return state

    def own_words(self) -> set[str]:
        """Return every word of the files that are not unstale's, in lower case."""
        words: set[str] = set()
        for name, match in self._files.items():
            text = self._text(name)
            if not match[2].startswith("unstale_") and GENERATED not in text:
                words.update(word.lower() for word in re.findall(r"\w+", text))
        return words

    def _text(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8", errors="replace")


def record(kind: str, *values: object) -> str:
    """Format one header line, which `Folder.state` reads back."""
    return f"-- unstale: {kind} {json.dumps(values, ensure_ascii=False)}"


def _replay(text: str, state: CaptureState) -> None:
    for line in text.splitlines():
        if line and not line.startswith("--"):
            return
        match = _RECORD.fullmatch(line)
        if match is None:
            continue
        if match[1] == "rules":
            state.hash = match[2]
            continue
        if match[1] in ("asks", "unasks"):
            (hash,) = json.loads(match[2])
            if match[1] == "asks":
                state.queries.add(str(hash))
            else:
                state.queries.discard(str(hash))
            continue
        schema, name, *rest = json.loads(match[2])
        table = TableName(str(schema), str(name))
        match match[1]:
            case "watches":
                keys, columns = rest
                state.watched[table] = TableNeeds(tuple(keys), None if columns is None else tuple(columns))
            case "unwatches":
                state.watched.pop(table, None)
            case "reads":
                state.reads.add(table)
            case _:
                state.reads.discard(table)
