"""What can go wrong with one rule's fan-out query, for the log and for ``doctor``."""

from dataclasses import dataclass
from typing import Final

from unstale_worker.rules import Watch

CAST_REMEDY: Final = "Return integers, text, uuid, bool or enums; cast the rest in the query: x::text."


@dataclass(frozen=True, slots=True)
class FanoutFailure:
    """A rule's query that could not be run; its patterns were invalidated instead.

    Attributes:
        watch: The rule.
        problem: What went wrong, without row values.
        remedy: What to do about it, as a sentence.
        code: Postgres' SQLSTATE, or None if the failure is not the server's.
    """

    watch: Watch
    problem: str
    remedy: str
    code: str | None = None

    def __str__(self) -> str:
        return f"line {self.watch.line}, query for {self.watch.table}: {self.problem}. {self.remedy}"


class QueryFailed(Exception):
    def __init__(self, failure: FanoutFailure) -> None:
        self.failure = failure
        super().__init__(str(failure))
