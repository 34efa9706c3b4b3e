"""The verdict table: ``python -m tests.model [--short] [--traces] [part of a name ...]``."""

import sys
import time

from .checker import TooLarge, explore
from .protocol import Protocol
from .variants import ALL


def main(arguments: list[str]) -> int:
    """Print a line for each variant; 1 when one of them is not as expected."""
    words = [word for word in arguments if not word.startswith("--")]
    wrong = 0
    began = time.perf_counter()
    print(f"{'expected':9}{'states':>9}{'at rest':>9}{'seconds':>9}  variant: verdict")
    for expected, variants in ALL.items():
        for variant in variants:
            if words and not any(word in f"{expected}/{variant.name}" for word in words):
                continue
            if variant.long and "--short" in arguments:
                continue
            try:
                outcome = explore(Protocol(variant.config, variant.off))
            except TooLarge as error:
                wrong += 1
                print(f"{expected:9}{'':27}  {variant.name}: {error}", flush=True)
                continue
            right = outcome.holds == (expected in ("holds", "masked"))
            wrong += not right
            print(
                f"{expected:9}{outcome.states:9}{outcome.at_rest:9}{outcome.seconds:9.1f}  {variant.name}: "
                f"{outcome}{'' if right else '   <-- NOT AS EXPECTED'}",
                flush=True,
            )
            if "--traces" in arguments:
                for number, step in enumerate(outcome.trace, 1):
                    print(f"{number:12}. {step}")
    print(f"{time.perf_counter() - began:.0f} s, {wrong} not as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
