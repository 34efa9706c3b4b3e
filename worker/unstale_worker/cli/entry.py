"""Entry point of the command ``unstale``; it handles Ctrl-C before slow imports."""

import os
import signal
import sys
from types import FrameType

USAGE = 2
INTERRUPTED = 128 + signal.SIGINT  # no `Final`: importing typing takes longer than everything else here


def main() -> None:
    """Run the command line. Until the event loop runs, Ctrl-C exits silently with code 130.

    Imports take a tenth of a second or more, and Python would print a traceback of the current import.
    Nothing has been started by then, so nothing needs to be cleaned up.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored on purpose (nohup)
        signal.signal(signal.SIGINT, _end)

    from unstale.errors import MissingExtra
    from unstale.runtime.extras import needs

    try:
        with needs("worker", what="The command unstale"):
            from unstale_worker.cli.commands import main as run

            run()
    except MissingExtra as error:
        print(f"unstale: {error}", file=sys.stderr)
        sys.exit(USAGE)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
