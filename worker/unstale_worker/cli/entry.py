"""Where the command ``unstale`` begins: imports nothing heavy before Ctrl-C is taken care of."""

import os
import signal
import sys
from types import FrameType

USAGE = 2
INTERRUPTED = 128 + signal.SIGINT  # no `Final`: to import typing takes longer than all else here


def main() -> None:
    """Run the command line. Until it has a loop, Ctrl-C ends it at once and without a word, with 130.

    Importing takes a tenth of a second and more, and Python would answer with a traceback through whatever
    is being imported. Nothing has been begun by then that would have to be ended.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it was ignored on purpose: nohup
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
