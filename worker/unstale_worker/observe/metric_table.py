"""The table of the worker's metrics, and of the alerts on them.

`/metrics`, the dashboard in ``deploy/grafana`` and the alerts in ``deploy/prometheus`` all come
from here; ``deploy/generate.py`` writes the last two.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from unstale_worker.observe.alert import Alert
from unstale_worker.observe.histogram import Histogram
from unstale_worker.observe.status import Role, Status

Value = float | Histogram | Mapping[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric.

    Attributes:
        name: Name in Prometheus; counters end in ``_total``.
        kind: A gauge goes up and down, a counter only up; a histogram counts durations.
        help: One sentence; docs/metrics.md has the same name as a heading.
        value: Reads it from a status; NaN if it is not known yet.
        labels: Names of its labels, if it has any.
        alert: The alert on it.
    """

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    value: Callable[[Status], Value]
    labels: tuple[str, ...] = ()
    alert: Alert | None = None


DEFINITIONS: Final = (
    Definition(
        "unstale_worker_ready",
        "gauge",
        "1 while /readyz answers 200.",
        lambda status: float(status.ready),
        alert=Alert(
            "UnstaleWorkerNotReady",
            "{name} == 0",
            120,
            "warning",
            "A worker is not ready: its page, /readyz and its log say why.",
            "operations.md#when-something-is-wrong",
        ),
    ),
    Definition(
        "unstale_worker_leading",
        "gauge",
        "1 on the worker that leads; summed over all workers it is 1.",
        lambda status: float(status.role is Role.LEADING),
        alert=Alert(
            "UnstaleNoLeader",
            "sum({name}) != 1",
            60,
            "critical",
            "Not exactly one worker leads, so changes may not be applied.",
            "operations.md#when-something-is-wrong",
        ),
    ),
    Definition(
        "unstale_worker_fence",
        "gauge",
        "Number of this worker's last leadership; it grows with each one.",
        lambda status: float(status.fence),
        alert=Alert(
            "UnstaleLeadershipFlaps",
            "changes({name}[10m]) > 3",
            0,
            "warning",
            "The leadership changes again and again; leaders lose their lease.",
            "operations.md#when-something-is-wrong",
        ),
    ),
    Definition(
        "unstale_worker_lag_seconds",
        "gauge",
        "Age of the newest read that is applied as a whole.",
        lambda status: _known(status.lag),
        alert=Alert(
            "UnstaleLag",
            "{name} > 10 and on (instance) unstale_worker_leading == 1",
            60,
            "critical",
            "Changes are not applied in time.",
            "operations.md#when-something-is-wrong",
        ),
    ),
    Definition(
        "unstale_worker_latency_seconds",
        "histogram",
        "Estimated seconds from a commit to its invalidation in Redis.",
        lambda status: status.counters.latency,
        alert=Alert(
            "UnstaleSlow",
            "histogram_quantile(0.99, sum by (instance, le) (rate({name}_bucket[5m]))) > 1",
            300,
            "warning",
            "One change in a hundred takes longer than a second to be applied.",
            "performance.md",
        ),
    ),
    Definition(
        "unstale_worker_watermark_age_seconds",
        "gauge",
        "Seconds since the last watermark was published.",
        lambda status: _known(status.watermark_age),
        alert=Alert(
            "UnstaleNoWatermark",
            "{name} > 5 and on (instance) unstale_worker_leading == 1",
            30,
            "critical",
            "The leader publishes no watermark, so agents detach.",
            "operations.md#when-something-is-wrong",
        ),
    ),
    Definition(
        "unstale_worker_listening",
        "gauge",
        "1 while a commit can wake this worker; 0 means that it only polls.",
        lambda status: float(status.listening),
    ),
    Definition(
        "unstale_worker_redis_up",
        "gauge",
        "1 while Redis answers.",
        lambda status: float(status.redis),
        alert=Alert(
            "UnstaleRedisAway",
            "{name} == 0",
            60,
            "critical",
            "A worker does not reach Redis.",
            "away.md",
        ),
    ),
    Definition(
        "unstale_worker_redis_no_run_id",
        "gauge",
        "1 if Redis does not tell its run id, where fewer promises hold (docs/providers.md).",
        lambda status: float(status.redis_tier == "no-run-id"),
    ),
    Definition(
        "unstale_worker_database_up",
        "gauge",
        "1 while Postgres answers.",
        lambda status: float(status.database),
        alert=Alert(
            "UnstaleDatabaseAway",
            "{name} == 0 and on (instance) unstale_worker_leading == 1",
            60,
            "critical",
            "The leader does not reach the database.",
            "away.md",
        ),
    ),
    Definition(
        "unstale_worker_captures_broken",
        "gauge",
        "Tables of which changes may go unreported; their keys are invalidated every 15 s.",
        lambda status: float(len(status.not_captured)),
        alert=Alert(
            "UnstaleCapturesBroken",
            "{name} > 0",
            0,
            "critical",
            "Changes of a table may go unreported; its keys are invalidated every 15 s.",
            "troubleshooting.md",
        ),
    ),
    Definition(
        "unstale_worker_former_watches",
        "gauge",
        "Watches that the rules lack by now, applied until no agent uses them.",
        lambda status: float(len(status.former_watches)),
    ),
    Definition(
        "unstale_worker_captures_coarse",
        "gauge",
        "Tables of which each change invalidates more keys than it concerns.",
        lambda status: float(len(status.coarsely_captured)),
        alert=Alert(
            "UnstaleCapturesCoarse",
            "{name} > 0",
            600,
            "warning",
            "Each change of a table invalidates more keys than it concerns.",
            "troubleshooting.md",
        ),
    ),
    Definition(
        "unstale_worker_capture_problem_timestamp_seconds",
        "gauge",
        "Since when a table is not, or too coarsely, captured, in seconds since 1970.",
        lambda status: status.capture_problems,
        labels=("table", "problem"),
    ),
    Definition(
        "unstale_worker_entries_total",
        "counter",
        "Outbox entries applied; one carries many rows of a bulk statement.",
        lambda status: float(status.counters.entries),
    ),
    Definition(
        "unstale_worker_batches_total",
        "counter",
        "Batches applied.",
        lambda status: float(status.counters.batches),
    ),
    Definition(
        "unstale_worker_keys_total",
        "counter",
        "Keys invalidated by name.",
        lambda status: float(status.counters.keys),
    ),
    Definition(
        "unstale_worker_patterns_total",
        "counter",
        "Patterns invalidated; each costs a scan of Redis.",
        lambda status: float(status.counters.patterns),
        alert=Alert(
            "UnstaleManyPatterns",
            "rate({name}[5m]) > 1",
            300,
            "warning",
            "Whole patterns are invalidated again and again; each costs a scan of Redis.",
            "rules.md",
        ),
    ),
    Definition(
        "unstale_worker_epochs_total",
        "counter",
        "New epochs begun: Redis failed over or lost its state, or a column's type changed.",
        lambda status: float(status.counters.epochs),
    ),
    Definition(
        "unstale_worker_recoveries_total",
        "counter",
        "Recoveries: every owned key was dropped, because no position could be trusted.",
        lambda status: float(status.counters.recoveries),
        alert=Alert(
            "UnstaleRecovery",
            "increase({name}[10m]) > 0",
            0,
            "warning",
            "Every owned key was dropped, because no position could be trusted.",
            "operations.md#when-something-is-wrong",
        ),
    ),
    Definition(
        "unstale_worker_purged_total",
        "counter",
        "Outbox entries purged.",
        lambda status: float(status.counters.purged),
    ),
    Definition(
        "unstale_worker_refresh_filled_total",
        "counter",
        "Keys refreshed by this process.",
        lambda status: float(status.refreshed.filled),
    ),
    Definition(
        "unstale_worker_refresh_unchanged_total",
        "counter",
        "Loads that unchanged inputs saved.",
        lambda status: status.refreshed.unchanged,
        labels=("refresh",),
    ),
    Definition(
        "unstale_worker_refresh_calls_total",
        "counter",
        "Calls of Python loaders, failed ones included.",
        lambda status: status.refreshed.calls,
        labels=("refresh",),
    ),
    Definition(
        "unstale_worker_refresh_tokens_total",
        "counter",
        "Tokens of language models, in and out, spent or saved by unchanged inputs.",
        lambda status: status.refreshed.tokens,
        labels=("refresh", "direction", "kind"),
    ),
    Definition(
        "unstale_worker_refresh_over_budget_total",
        "counter",
        "Refreshes without a call, because a budget was used up.",
        lambda status: status.refreshed.over_budget,
        labels=("refresh",),
        alert=Alert(
            "UnstaleOverBudget",
            "increase({name}[10m]) > 0",
            0,
            "warning",
            "The budget of a loader is used up; old values are served, or readers load.",
            "refresh.md#budgets",
        ),
    ),
    Definition(
        "unstale_worker_refresh_overtaken_total",
        "counter",
        "Loads that a newer change overtook; the key was loaded again.",
        lambda status: float(status.refreshed.overtaken),
    ),
    Definition(
        "unstale_worker_refresh_failed_total",
        "counter",
        "Refreshes that failed, each of them attempted again or a dead letter.",
        lambda status: float(status.refreshed.failed),
        alert=Alert(
            "UnstaleRefreshesFail",
            "rate({name}[5m]) > 0.1",
            300,
            "warning",
            "Refreshes fail again and again; the log says why.",
            "refresh.md",
        ),
    ),
    Definition(
        "unstale_worker_refresh_dead_letters_total",
        "counter",
        "Keys whose refresh failed for good in this process; they stay invalidated.",
        lambda status: float(status.refreshed.dead),
        alert=Alert(
            "UnstaleDeadLetters",
            "increase({name}[10m]) > 0",
            0,
            "warning",
            "A refresh failed for good; `unstale dead-letters` says why.",
            "refresh.md",
        ),
    ),
    Definition(
        "unstale_worker_refresh_dispatched_total",
        "counter",
        "Keys that this leader made ready for Python loaders, wherever they run.",
        lambda status: float(status.refreshed.dispatched),
    ),
    Definition(
        "unstale_worker_errors_total",
        "counter",
        "Errors, each of them logged and retried.",
        lambda status: float(status.counters.errors),
        alert=Alert(
            "UnstaleErrors",
            "rate({name}[5m]) > 0.05",
            300,
            "warning",
            "A worker logs errors again and again.",
            "operations.md#when-something-is-wrong",
        ),
    ),
)


def _known(seconds: float) -> float:
    return seconds if math.isfinite(seconds) else math.nan
