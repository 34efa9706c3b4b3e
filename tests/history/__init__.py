"""A history checker: what writers committed, agents read and agents were told, and whether that was allowed.

The promises it holds a history against are those of `docs/guarantees.md`; `checker` says which sentence each
verdict follows from. It knows nothing of caches: `recorder` records any of them.
"""

from history.checker import Checker
from history.recorder import Recorder
from history.records import Confirmed, Final, Heard, Opened, Read, Record, Reset, Sample, Seen, decode, encode
from history.verdict import Limits, Verdict
from history.writes import State, Writes

__all__ = [
    "Checker",
    "Confirmed",
    "Final",
    "Heard",
    "Limits",
    "Opened",
    "Read",
    "Record",
    "Recorder",
    "Reset",
    "Sample",
    "Seen",
    "State",
    "Verdict",
    "Writes",
    "decode",
    "encode",
]
