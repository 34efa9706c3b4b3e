"""Failures of a rule's fan-out query, for the log and for ``doctor``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from unstale_worker.rules import Watch

ColumnTypes: TypeAlias = dict[Watch, Mapping[str, str]]
"""The built-in types of the columns that fill a rule's templates; '' for any other type."""

CAST_REMEDY: Final = "Return integers, text, uuid, bool or enums; cast the rest in the query: x::text."


@dataclass(frozen=True, slots=True)
class FanoutFailure:
    """A rule's query could not be run; the rule's patterns were invalidated instead.

    Attributes:
        watch: The rule.
        problem: The cause, without row values.
        remedy: The remedy, as a sentence.
        code: Postgres' SQLSTATE, or None if the failure did not come from the server.
    """

    watch: Watch
    problem: str
    remedy: str
    code: str | None = None

    def __str__(self) -> str:
        return f"line {self.watch.line}, query for {self.watch.table}: {self.problem}. {self.remedy}"


class QueryFailed(Exception):
    """Carries a `FanoutFailure` out of a query that failed."""

    def __init__(self, failure: FanoutFailure) -> None:
        self.failure = failure
        super().__init__(str(failure))
