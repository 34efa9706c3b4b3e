"""Records what loaders read during a session of tests, and reports the rules that are missing."""

import os
import shutil
import tempfile
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from unstale.companion.recording import recorder
from unstale.errors import MissingExtra

if TYPE_CHECKING:
    import pytest

GROUP = "unstale.loader_reports"
VARIABLE = "UNSTALE_LEARN"


class Learning:
    """The recording of one session. With pytest-xdist, the processes record and the controller reports.

    Args:
        folder: The folder that every process records into.
        root: pytest's root folder, where the rules are looked for.
        reports: True in the process that reports.
        fails: True if the session fails when a rule is missing, or loaders ran and no statement was seen.
    """

    def __init__(self, folder: Path, root: Path, *, reports: bool, fails: bool) -> None:
        self._folder, self._root, self._reports, self._fails = folder, root, reports, fails
        self._text, self._fault = "", False
        recorder.start(folder)

    def pytest_sessionfinish(self, session: "pytest.Session") -> None:
        """Compare the recording with the rules; fail the session if that is asked for."""
        if not self._reports:
            return
        report = next(iter(entry_points(group=GROUP))).load()
        self._text, self._fault = report(self._folder, self._root)
        if self._fault and self._fails and session.exitstatus == 0:
            session.exitstatus = 1  # as if a test had failed

    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """Print the report."""
        if self._text:
            color = {"red": True} if self._fault and self._fails else {}
            terminalreporter.write_sep("=", "unstale: tables that loaders read", **color)
            terminalreporter.write(self._text)

    def end(self) -> None:
        """Record no more, and remove the recording."""
        recorder.stop()
        if self._reports:
            os.environ.pop(VARIABLE, None)
            shutil.rmtree(self._folder, ignore_errors=True)


def begin(config: "pytest.Config", mode: str) -> Learning:
    """Start recording in this process and in those that tests start; raises `MissingExtra`."""
    if hasattr(config, "workerinput"):  # a process of pytest-xdist: it has the controller's environment
        return Learning(Path(os.environ[VARIABLE]), config.rootpath, reports=False, fails=False)
    if not entry_points(group=GROUP):
        raise MissingExtra("--unstale-learn", extra="worker", package="unstale_worker")
    folder = Path(tempfile.mkdtemp(prefix="unstale-learn-"))
    os.environ[VARIABLE] = str(folder)
    return Learning(folder, config.rootpath, reports=True, fails=mode == "fail")
