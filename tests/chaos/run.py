"""One chaos run: faults for a while, then quiet, then the verdict."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from chaos.bag import Bag, happen
from chaos.commits import join
from chaos.evidence import gather
from chaos.faults import FAULTS
from chaos.memos import loaded
from chaos.nodes import CLUSTER_FAULTS, Nodes
from chaos.restores import merged
from chaos.stage import DETACHED_TTL, MAX_SILENCE, Stage, journal, staged
from chaos.valkeys import Valkeys
from chaos.world import RULES, rows_of, statement
from history import Checker, Final, Limits, Record, Verdict, decode
from history.recorder import seen_in
from unstale_worker.rules import Rules

LAG = 3.0
"""Seconds a promoted replica may have been behind, and what a busy machine adds, in the detached bound."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What a chaos run found.

    Attributes:
        seconds: That faults came for.
        faults: How often what happened; the writer's doings, too.
        recoveries: Seconds from the end of a fault (or two) until every agent was true again, by kind.
        changes: Row states committed.
        failures: Reads and writes of agents that the database refused.
        loads: Of the Python loader that ended well, in refresh workers and in leaders that stood in.
        verdict: The checker's.
        trouble: Why the run ended early, or empty.
        audit: What ``unstale audit`` said in the end; empty without it.
    """

    seed: int
    seconds: float
    faults: dict[str, int]
    recoveries: dict[str, list[float]]
    changes: int
    failures: int
    loads: tuple[int, int]
    verdict: Verdict
    trouble: str
    audit: Mapping[str, Any]

    @property
    def true(self) -> bool:
        """Whether every promise was kept, and the audit found nothing else."""
        return self.verdict.true and not self.trouble and bool(self.audit.get("sound", True))


async def run(
    folder: Path,
    *,
    seconds: float,
    seed: int,
    agents: int,
    subject: str,
    say: Say,
    only: Collection[str] = (),
    cluster: bool = False,
) -> Result:
    """Let faults come for so long, then judge; the histories stay in ``folder``."""
    chance = random.Random(f"{seed} faults")
    faults: Counter[str] = Counter()
    recoveries: dict[str, list[float]] = defaultdict(list)
    trouble = ""
    valkeys, kinds_of = (Nodes(), CLUSTER_FAULTS) if cluster else (Valkeys(), FAULTS)
    async with staged(folder, agents=agents, seed=seed, subject=subject, valkeys=valkeys) as stage:
        bag, began = Bag(chance, only=only, faults=kinds_of), time.monotonic()
        try:
            while (elapsed := time.monotonic() - began) < seconds:
                drawn = bag.draw()
                kinds = " + ".join(fault.kind for fault in drawn)
                say(f"{elapsed:7.1f} s  {kinds}")
                await happen(drawn, stage, chance)
                faults.update(fault.kind for fault in drawn)
                stage.check()
                if chance.random() < 0.8:
                    took = await stage.recovered()
                    for fault in drawn:
                        recoveries[fault.kind].append(took)
                await asyncio.sleep(chance.uniform(0, 0.8))
            elapsed = time.monotonic() - began
            say(f"{elapsed:7.1f} s  quiet")
            await stage.calm()
            await stage.recovered()
            await stage.refreshing()
            await stage.made_new()
            contents = await stage.valkeys.contents(("item:*", "view:*", "note:*", "memo:*"))
            await asyncio.gather(*(slot.process.finish() for slot in stage.agents))
            if stage.auditor is not None:
                await stage.auditor.process.over()
        except (AssertionError, BaseExceptionGroup) as error:
            trouble, contents, elapsed = _words(error), {}, time.monotonic() - began
            say(f"trouble: {trouble}")  # now: perhaps nothing can be judged
            for line in await gather(stage):
                say(f"  {line}")
        if not await stage.postgres.running():
            await stage.postgres.start()
        for process in (stage.writer, *(slot.process for slot in stage.agents)):
            await process.close()
        found, read_at = await journal(stage.postgres, statement("journal"))
        rows = merged(stage.restores.lost, found)
        (folder / "journal.json").write_bytes(orjson.dumps({"read_at": read_at, "rows": rows}))
        faults.update({name: n for name, n in stage.writer.news.items() if name not in ("refused", "change")})
        return Result(
            seed=seed,
            seconds=elapsed,
            faults=dict(faults),
            recoveries=dict(recoveries),
            changes=len(rows),
            failures=sum(int(slot.process.news.get("failures", 0)) for slot in stage.agents),
            loads=(loaded(folder, "refresher"), loaded(folder, "worker")),
            verdict=await asyncio.to_thread(_judge, stage, rows, read_at, contents),
            trouble=trouble,
            audit={} if stage.auditor is None else stage.auditor.process.news,
        )


def _judge(
    stage: Stage, rows: list[tuple[str, int, bool]], read_at: float, contents: dict[str, bytes]
) -> Verdict:
    writes = join(sorted(stage.folder.glob("*.commits")), rows, end=read_at)
    rules = Rules.load(RULES)
    limits = Limits(
        unpromised=tuple(stage.unpromised),
        uncaptured=tuple(stage.uncaptured),
        detached=MAX_SILENCE + DETACHED_TTL + LAG,
        serve_stale=lambda key: spec.serve_stale if (spec := rules.refresh_of(key)) is not None else 0.0,
    )
    checker = Checker(writes, limits)
    for slot in stage.agents:
        for life in range(1, slot.process.lives + 1):
            name = f"{slot.process.base}.{life}"
            checker.judge(name, _records(stage.folder / f"{name}.history"))
    checker.judge(
        "Redis",
        [
            Final(key, seen_in(orjson.loads(value), rows_of(key)))
            for key, value in contents.items()
            if not value.startswith(b"\x00")
        ],
    )
    return checker.verdict


def _records(path: Path) -> Iterator[Record]:
    if not path.exists():
        return  # killed before it had written anything
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return  # the last line of a killed process
            yield decode(line)


def _words(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
