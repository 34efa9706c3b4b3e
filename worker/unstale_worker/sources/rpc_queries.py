"""Run the rules' fan-out queries over HTTPS: each is a function named after the hash of its definition."""

from typing import Any, Final

from unstale.errors import DatabaseUnavailable, MigrationMissing
from unstale_worker.fanout.failure import CAST_REMEDY, ColumnTypes, FanoutFailure, QueryFailed
from unstale_worker.fanout.queries import ARGUMENTS_A_RUN, MAX_ROWS
from unstale_worker.fanout.statement import KEY_TYPES
from unstale_worker.migration.query_function import query_hash
from unstale_worker.rules import Plan, Rules, Watch
from unstale_worker.rules.identifiers import display
from unstale_worker.rules.template import columns_of
from unstale_worker.sources.rpc import TIMED_OUT, Refused, Rpc

NO_SUCH_QUERY: Final = "UN012"
NOT_ITS_FAULT: Final = ("08", "53", "57", "58", "UN", "PG")
"""Classes of codes that are not about the query, but about the server, the API or the network."""
PUSH: Final = "Run `unstale migration` and push the file it writes: `supabase db push`."


async def run_queries(rpc: Rpc, rules: Rules, plan: Plan, *, max_rows: int = MAX_ROWS) -> list[FanoutFailure]:
    """Run the pending queries of ``plan`` and add their keys and patterns to it; see `Source.run_queries`.

    After `DatabaseUnavailable` the plan is incomplete and must be made again.
    """
    failures: list[FanoutFailure] = []
    for watch in [watch for watch in rules.watches if watch in plan.queries]:
        try:
            try:
                await _run(rpc, watch, plan, max_rows=max_rows)
            except QueryFailed as failed:
                if failed.failure.code in (None, TIMED_OUT, NO_SUCH_QUERY):
                    raise
                # A table that was altered refuses the statements that Postgres has kept, once a session.
                await _run(rpc, watch, plan, max_rows=max_rows)
        except QueryFailed as failed:
            plan.patterns.update(watch.patterns)
            failures.append(failed.failure)
        del plan.queries[watch]
    return failures


async def check_queries(rpc: Rpc, rules: Rules, found: ColumnTypes | None = None) -> list[FanoutFailure]:
    """Run every query without a row and return the failures. Changes nothing.

    Raises `DatabaseUnavailable`, and `MigrationMissing` with the queries for whose current text the database
    has no function.
    """
    failures: list[FanoutFailure] = []
    missing: list[str] = []
    for watch in rules.watches:
        if watch.query is None:
            continue
        try:
            await _ask(rpc, watch, [], most=1, found=found)
        except QueryFailed as failed:
            if failed.failure.code == NO_SUCH_QUERY:
                missing.append(f"line {watch.line} (query for {watch.table})")
            else:
                failures.append(failed.failure)
    if missing:
        raise MigrationMissing(
            f"{rules.file}: the database has no function for the current text of the query: "
            f"{', '.join(missing)}. {PUSH}"
        )
    return failures


async def _run(rpc: Rpc, watch: Watch, plan: Plan, *, max_rows: int) -> None:
    pending, newest = list(plan.queries[watch]), max(plan.queries[watch].values())
    seen = 0
    for start in range(0, len(pending), ARGUMENTS_A_RUN):
        rows = await _ask(rpc, watch, pending[start : start + ARGUMENTS_A_RUN], most=max_rows + 1 - seen)
        seen += len(rows)
        if seen > max_rows:
            plan.patterns.update(watch.patterns)
            return
        if rows:
            texts = [
                [None if value is None else str(value) for value in column]
                for column in zip(*rows, strict=True)
            ]
            # The answer does not say which row of `pending` found a key, so the newest change stands for all.
            causes = [newest] * len(rows)
            watch.expand(dict(zip(columns_of(watch.keys), texts, strict=False)), plan, causes)


async def _ask(
    rpc: Rpc, watch: Watch, given: list[Any], *, most: int, found: ColumnTypes | None = None
) -> list[list[Any]]:
    """Run a query for the ``given`` changed rows and return the columns the keys need.

    ``found`` receives their types. Raises `QueryFailed`.
    """
    try:
        answer = await rpc.ask(
            "unstale_fanout", query=query_hash(watch), given=[list(row) for row in given], most=most
        )
    except Refused as refused:
        raise _error_of(watch, refused) from refused
    try:
        rows, types = answer["rows"], answer["types"]
        wanted = columns_of(watch.keys)
        for column, (schema, name, kind) in zip(wanted, types, strict=bool(wanted)):
            if (schema == "pg_catalog" and name not in KEY_TYPES) or kind not in ("b", "e", "d"):
                problem = f"{display(column)} has the type {name}, which cannot be part of a key"
                raise QueryFailed(FanoutFailure(watch, problem, CAST_REMEDY))
        if found is not None:
            found[watch] = {
                column: name if schema == "pg_catalog" else ""
                for column, (schema, name, _) in zip(wanted, types, strict=False)
            }
        if wanted and not all(isinstance(value, str | int | None) for row in rows for value in row):
            problem = "a column has a type that cannot be part of a key"
            raise QueryFailed(FanoutFailure(watch, problem, CAST_REMEDY))
        return [list(row) for row in rows]
    except (TypeError, ValueError, KeyError) as error:
        raise DatabaseUnavailable(
            "the answer of unstale_fanout cannot be read; the worker asks again"
        ) from error


def _error_of(watch: Watch, refused: Refused) -> Exception:
    """Translate a refusal: `QueryFailed` if the query is at fault, else another error."""
    code = refused.code
    if code == TIMED_OUT:
        problem, remedy = (
            "it exceeded the API's time limit (8 s)",
            "Add an index for it, or let it return less.",
        )
    elif code == NO_SUCH_QUERY:
        problem, remedy = "the database has no function for its current text", PUSH
    elif code == "42501" and "unstale_fanout" in refused.message:
        return MigrationMissing(f"the key may not call unstale_fanout: it must be a secret key. {PUSH}")
    elif code == "42501":
        problem = refused.message
        remedy = f"Grant service_role the right to read it: {PUSH[0].lower()}{PUSH[1:]}"
    elif code == "PGRST202":
        return MigrationMissing(f"the database lacks unstale_fanout ({code}). {PUSH}")
    elif code.startswith("42"):  # names and syntax; messages of other classes quote row values
        problem, remedy = refused.message, "Correct the query, or create the objects it names."
    elif len(code) == 5 and not code.startswith(NOT_ITS_FAULT):
        problem, remedy = f"Postgres refused it ({code})", "Run it by hand to see why."
    else:
        return refused
    return QueryFailed(FanoutFailure(watch, problem, remedy, code))
