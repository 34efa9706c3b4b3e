"""A chaos run's result in words, and as one JSON object."""

import statistics

import orjson

from chaos.run import Result


def summary(result: Result) -> dict[str, object]:
    """JSON-ready."""
    verdict = result.verdict
    return {
        "true": result.true,
        "seed": result.seed,
        "seconds": round(result.seconds, 1),
        "reads": verdict.reads,
        "attached_reads": verdict.attached_reads,
        "stale_reads": verdict.stale_reads,
        "stale_by_kind": verdict.stale,
        "lost_changes": len(verdict.lost),
        "wrong_keys": len(verdict.wrong),
        "final_values": verdict.finals,
        "changes": result.changes,
        "faults": result.faults,
        "worst_staleness_ms": round(verdict.worst * 1000, 1),
        "worst_detached_staleness_ms": round(verdict.worst_detached * 1000, 1),
        "unpromised_reads": verdict.unpromised,
        "served_stale_reads": verdict.served_stale,
        "refused_reads": result.failures,
        "loads_of_refresh_workers": result.loads[0],
        "loads_of_leaders": result.loads[1],
        "recovery_ms": {
            kind: {"median": round(statistics.median(times) * 1000), "worst": round(max(times) * 1000)}
            for kind, times in sorted(result.recoveries.items())
        },
        "trouble": result.trouble,
        "audit": result.audit,
    }


def as_json(result: Result) -> str:
    """One line."""
    return orjson.dumps(summary(result)).decode()


def table(result: Result) -> str:
    """Faults by kind with their recovery times, the numbers, and the verdict last."""
    verdict = result.verdict
    lines = ["", f"{'fault':34} {'times':>6} {'recovery s: median':>20} {'worst':>8}"]
    for kind in sorted(result.faults):
        times = result.recoveries.get(kind)
        recovery = f"{statistics.median(times):20.2f} {max(times):8.2f}" if times else f"{'':>20} {'':>8}"
        lines.append(f"{kind:34} {result.faults[kind]:6} {recovery}".rstrip())
    lines += [
        "",
        f"seed {result.seed}, {result.seconds:.0f} s, {result.changes} row changes committed",
        f"reads                               {verdict.reads} ({verdict.attached_reads} attached)",
        f"stale reads                         {verdict.stale_reads} {verdict.stale or ''}",
        f"changes lost                        {len(verdict.lost)}",
        f"audit: {_audited(result)}",
        f"wrong values in the end             {len(verdict.wrong)} of {verdict.finals}",
        f"oldest answer while attached        {verdict.worst * 1000:.0f} ms",
        f"oldest answer while detached        {verdict.worst_detached * 1000:.0f} ms",
        f"served stale as a rule allows       {verdict.served_stale}",
        f"older where no bound is promised    {verdict.unpromised}",
        f"refused by the database             {result.failures}",
        f"loads of refresh workers, leaders   {result.loads[0]}, {result.loads[1]}",
    ]
    lines += [f"  {complaint}" for complaint in verdict.complaints]
    if result.trouble:
        lines.append(f"trouble: {result.trouble}")
    lines.append("every promise was kept" if result.true else "A PROMISE WAS BROKEN")
    return "\n".join(lines)


def _audited(result: Result) -> str:
    """The audit in a few words."""
    if not result.audit:
        return "none"
    observed, staleness = result.audit["observations"], result.audit["staleness"]
    return (
        f"{observed['compared']} comparisons, {observed['in_flight']} in flight, "
        f"{observed['refused']} refused, {result.audit['violation_count']} violations, "
        f"{staleness['broken_promises']} broken promises"
    )
