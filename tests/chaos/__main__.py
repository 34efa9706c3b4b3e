"""Arguments in, one chaos run, exit code out: 0 when every promise was kept, else 1."""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
from pathlib import Path

from chaos.faults import FAULTS
from chaos.nodes import CLUSTER_FAULTS
from chaos.report import as_json, table
from chaos.run import run
from unstale_worker.runtime.event_loop import new_event_loop


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="chaos", description="Faults at random, and every read checked.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long faults come (default 1)")
    parser.add_argument("--seed", type=int, help="of every random choice (default: a new one)")
    parser.add_argument("--agents", type=int, default=3, help="agent processes (default 3)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument(
        "--subject", choices=("unstale", "aside", "deaf"), default="unstale",
        help="what agents read through; the naive ones must fail (default unstale)",
    )  # fmt: skip
    parser.add_argument(
        "--only", action="append", default=[], metavar="KIND",
        choices=sorted({fault.kind for fault in (*FAULTS, *CLUSTER_FAULTS)}),
        help="this kind of fault, instead of all; may be given again",
    )  # fmt: skip
    parser.add_argument("--cluster", action="store_true", help="Redis is a cluster of six nodes")
    parser.add_argument("--keep", type=Path, help="an empty folder for logs and histories; they stay")
    given = parser.parse_args(arguments)
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(2**31)
    # Ended by SIGTERM as by Ctrl-C (which a script's background ignores): in order, leaving nothing behind.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="unstale-chaos-") as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            result = runner.run(
                run(
                    folder, seconds=given.minutes * 60, seed=seed, agents=given.agents,
                    subject=given.subject, only=given.only, say=lambda line: print(line, flush=True),
                    cluster=given.cluster,
                )
            )  # fmt: skip
    print(table(result), flush=True)
    if given.json:
        print(as_json(result), flush=True)
    return 0 if result.true else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
