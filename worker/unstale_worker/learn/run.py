"""Run a command while what its loaders read is recorded, and keep the recording."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from unstale.companion.recording.recorder import RAN
from unstale.errors import ConfigurationError
from unstale_worker.learn.report import Learned, learn, read_recording
from unstale_worker.rules import Rules
from unstale_worker.rules.discovery import NoRules

KEPT: Final = Path(".unstale/loaders.jsonl")
"""File of the last recording, below the folder in which the command ran."""
VARIABLE: Final = "UNSTALE_LEARN"


@contextmanager
def recording(keep: Path) -> Iterator[Path]:
    """Make a folder to record into; at the end, keep what is in it as the file ``keep``."""
    try:
        keep.parent.mkdir(parents=True, exist_ok=True)
        if not any(keep.parent.iterdir()):
            (keep.parent / ".gitignore").write_text("*\n", "utf-8")
        folder = Path(tempfile.mkdtemp(prefix="recording-", dir=keep.parent))
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {keep} ({error.strerror}); check the folder and its permissions"
        ) from error
    try:
        yield folder.resolve()
    finally:
        with keep.open("w", encoding="utf-8") as file:
            for each in sorted(folder.glob("*.jsonl")):
                file.write(each.read_text("utf-8"))
        shutil.rmtree(folder, ignore_errors=True)


def run_recorded(command: Sequence[str], *, keep: Path) -> int:
    """Run ``command`` to its end, or until Ctrl-C; return its exit code."""
    with recording(keep) as folder:
        try:
            process = subprocess.Popen(command, env=os.environ | {VARIABLE: str(folder)})
        except OSError as error:
            raise ConfigurationError(f"cannot run {command[0]!r} ({error.strerror})") from error
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the command has received it, too


def learned(path: Path, rules: Path | None, *, root: Path = Path()) -> Learned:
    """Compare the recording ``path`` with the rules, or with none if there is no rules file."""
    observations = read_recording(path)
    try:
        known: Rules | None = Rules.load(rules, root=root)
    except NoRules:
        known = None
    return learn(known, observations)


def report(found: Learned) -> str:
    """Return the result as text: what is missing, the rules to add, and what could not be followed."""
    if found.empty:
        return (
            "No statement of a loader was recorded, so nothing was compared. Seen are statements through the "
            "Postgres pool or the Supabase client of unstale's ConnectionPool, inside get_or_load, get_many "
            "or a function under @cache.cached. A pool that asyncpg.create_pool made is not seen: give your "
            "loaders `await pool.postgres()` of a ConnectionPool instead (docs/learn.md).\n"
        )
    if not found.statements:
        return f"All {found.ignored} statements that were recorded are left out by ignore_keys of [learn].\n"
    lines = [f"{found.statements} statements of loaders were recorded."]
    lines += [str(each) for each in found.missing]
    if found.missing:
        lines += ["", "These rules would watch what is missing:", "", found.toml.rstrip()]
        lines += ["", "A table or key that is to be left out: [learn] in docs/rules.md."]
    else:
        lines.append("Every table that they read is watched.")
    lines += [f"column left out: {each}; {each.remedy}" for each in found.columns]
    lines += [f"not followed: {doubt}" for doubt in found.doubts]
    return "\n".join(lines) + "\n"


def report_of_tests(folder: Path, root: Path) -> tuple[str, bool]:
    """Return the report of a session of tests, and True if it must not pass; for the pytest plugin.

    It must not if a rule is missing, nor if loaders ran and no statement of them was seen. A session in which
    no loader ran, such as a part of the tests, has nothing to compare.
    """
    found = learned(folder, None, root=root)
    if found.empty and not (folder / RAN).exists():
        return "No loader ran, so there is nothing to compare with the rules.\n", False
    return report(found), bool(found.missing) or found.empty
