"""``unstale worker`` with one fault: ``python -m workers.child source.after_read=kill@3``.

The fault lies at a failpoint or at one of `workers.seams.SEAMS`. It is ``kill`` (SIGKILL to itself) or
``sleep:SECONDS``, with ``@3`` from the third time on.
"""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable

from unstale.runtime import failpoints
from unstale_worker.cli.commands import main
from workers.seams import SEAMS, after, before


def parse(text: str) -> tuple[str, Callable[[], object], int]:
    """Parse place, fault and the first call that it affects; raises ValueError."""
    found = re.fullmatch(r"(?P<name>[a-z_.]+)=(kill|sleep:(?P<seconds>[0-9.]+))(?:@(?P<first>[0-9]+))?", text)
    if found is None:
        raise ValueError(f"{text!r} is not NAME=kill or NAME=sleep:SECONDS, with @N or without")
    first = int(found["first"] or 1)
    if found["seconds"] is None:
        return found["name"], lambda: os.kill(os.getpid(), signal.SIGKILL), first
    seconds = float(found["seconds"])
    return found["name"], lambda: asyncio.sleep(seconds), first


def run(text: str) -> None:
    """Run the command line with the fault armed."""
    name, what, first = parse(text)
    if name in SEAMS:
        owner, method, late = SEAMS[name]
        with (after if late else before)(owner, method, run=what, first=first):
            main()
    else:
        with failpoints.armed(name, run=what, first=first):
            main()


if __name__ == "__main__":
    given, sys.argv[1:] = sys.argv[1], ["worker"]
    run(given)
