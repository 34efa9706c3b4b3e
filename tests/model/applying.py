"""A leader's batches: `Pipeline.cycle` and `Applier.apply`, one read or one script a step."""

from collections.abc import Iterator

from . import database as postgres
from . import scripts
from .checker import Move
from .database import DatabaseSteps
from .defences import Defence
from .server import Server, run, same_run
from .world import Config, Known, Mask, Message, Page, Redis, Seen, Worker, World, newest, replaced

Scripts = tuple[tuple[str, int], ...]


class Batches:
    """What a worker does between two reads of the state, as long as its position counts."""

    def __init__(
        self, config: Config, off: frozenset[Defence], server: Server, database: DatabaseSteps
    ) -> None:
        self._config, self._off = config, off
        self._server, self._database = server, database

    # --- reading ------------------------------------------------------------------------------------

    def read(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        """The first page after the position."""
        known = worker.known
        assert known is not None
        assert known.position is not None
        if Defence.NEED_LSN_AFTER_READ in self._off and worker.page is None:
            early = Page(0, 0, 0, False, False, postgres.lsn(world.database), 0)
            yield "reads the LSN", became(world, number, worker._replace(page=early)), None
            return
        page = self._database.read(world.database, known.position)
        if worker.page is not None:
            page = page._replace(lsn=worker.page.lsn)
        yield from self._planned(world, number, worker._replace(page=None), known, page)

    def next_page(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        """The page after the one just applied, of the same snapshot."""
        page, known = worker.page, worker.known
        assert page is not None
        assert known is not None
        assert known.position is not None
        if not self.counts(world, known) and world.database.purged & ~known.position:
            # Only without LATER_PAGES: what is gone is not delivered, and this looks like the end.
            after = worker._replace(step="ready", page=None)
            yield "takes a purged page for the last one", became(world, number, after), None
            return
        following = self._database.read(
            world.database, known.position, upto=page.snapshot, beyond=page.last_xid
        )
        yield from self._planned(world, number, worker._replace(step="ready", page=None), known, following)

    def counts(self, world: World, known: Known) -> bool:
        """`standing_after_read` of a read done now."""
        assert known.position is not None
        return self._database.counts(world.database, known.position, known.database, known.flushed)

    def _planned(
        self, world: World, number: int, worker: Worker, known: Known, page: Page
    ) -> Iterator[Move[World]]:
        read_first = Defence.PRIMARY_UNTIL_READ_FIRST not in self._off
        primary = known.primary_until if read_first else 0
        seen = Seen(page.told, page.lsn if primary or not read_first else 0, primary)
        follows = self._server.following(world)
        todo = self.scripts(page, known)
        if todo:
            after = worker._replace(step="apply", page=page, scripts=todo, seen=seen, follows=follows)
            yield f"reads entries up to {page.position:b}", became(world, number, after), None
        elif (worker.seen, worker.follows) != (seen, follows):
            after = worker._replace(seen=seen, follows=follows)
            yield "reads nothing new", became(world, number, after), None

    def scripts(self, page: Page, known: Known) -> Scripts:
        """The scripts of one page: drops of patterns, then removals; the last one stores the position."""
        moved = page.position != known.position
        if not (page.keys or page.others or page.whole or moved or page.more):
            return ()
        names = [1 << key for key in range(self._config.keys) if page.keys >> key & 1]
        names += [0] if page.others else []
        size = self._config.script_keys
        todo = [("apply", sum(names[first : first + size])) for first in range(0, len(names), size)]
        if page.whole:
            todo.append(("apply_pattern", (1 << self._config.keys) - 1))
        if moved:
            name, keys = todo.pop() if todo else ("apply", 0)
            todo.append((f"{name}_last", keys))
        if not page.whole:
            return tuple(todo)
        late = Defence.DROP_LAST in self._off
        return (*todo, *self.drops()) if late else (*self.drops(), *todo)

    def drops(self) -> Scripts:
        """``drop.lua``: once to raise need_lsn, then a SCAN that finds each key in turn."""
        found = tuple(("drop", 1 << key) for key in range(self._config.keys))
        if self._config.serve_stale and Defence.DROPS_STALE not in self._off:
            found += tuple(("drop_stale", 1 << key) for key in range(self._config.keys))
        return (("need_lsn", 0), *found) if self._config.replica else found

    # --- applying -----------------------------------------------------------------------------------

    def apply(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        """The next script of a batch."""
        (name, keys), rest = worker.scripts[0], worker.scripts[1:]
        page, known = worker.page, worker.known
        assert page is not None
        assert known is not None
        dropping, same = name in ("drop", "drop_stale", "need_lsn"), same_run(world, self._config, self._off)
        if scripts.refused(world.redis, worker, self._off, same_run=same, epoch=not dropping) or (
            dropping and self._config.run_id and known.live_run != run(world)
        ):
            yield f"is refused ({name})", refused(world, number, worker, self._off), None
        elif dropping:
            after = worker._replace(scripts=rest) if rest else _done(worker, page)
            redis, after = self._server.stamped(world, self.dropped(world.redis, name, keys, page), after)
            yield f"drops {keys:b} ({name})", self._server.changed(became(world, number, after), redis), None
        elif name.startswith("split_"):
            yield from self._rest_of(world, number, worker, name[6:], keys)
        elif name.endswith("_last") and Defence.POSITION_WITH_EFFECTS in self._off:
            redis = scripts.store_position(world.redis, page)
            half = worker._replace(known=_moved(known, page), scripts=((f"split_{name}", keys), *rest))
            yield "stores the position", self._server.changed(became(world, number, half), redis), None
        elif Defence.PUBLISH_AFTER in self._off:
            half = worker._replace(scripts=((f"split_{name}", keys), *rest))
            _, message = self._removed(world, known, name, keys, page)
            for note, agents in self._server.published(world.agents, message):
                there = became(world, number, half)._replace(agents=agents)
                yield f"announces {keys:b}{note}", there, None
        else:
            redis, message = self._removed(world, known, name, keys, page)
            moves = name.endswith("_last") or Defence.POSITION_LAST in self._off
            yield from self._removes(world, number, worker, redis, message, moves, f"{keys:b} ({name})")

    def _rest_of(
        self, world: World, number: int, worker: Worker, name: str, keys: Mask
    ) -> Iterator[Move[World]]:
        """What is left of a script that was cut in two by a defence switched off."""
        page, known = worker.page, worker.known
        assert page is not None
        assert known is not None
        redis, message = self._removed(world, known, name, keys, page)
        if Defence.PUBLISH_AFTER in self._off:
            message = None
        moves = name.endswith("_last")
        yield from self._removes(world, number, worker, redis, message, moves, f"{keys:b} (rest of {name})")

    def _removes(
        self,
        world: World,
        number: int,
        worker: Worker,
        redis: Redis,
        message: Message | None,
        moves: bool,
        what: str,
    ) -> Iterator[Move[World]]:
        page, known, rest = worker.page, worker.known, worker.scripts[1:]
        assert page is not None
        assert known is not None
        if moves:
            redis, known = scripts.store_position(redis, page), _moved(known, page)
        redis, after = self._server.stamped(world, redis, worker._replace(scripts=rest, known=known))
        after = after if rest else _done(after, page)
        for note, agents in self._server.published(world.agents, message):
            there = became(world, number, after)._replace(agents=agents)
            stored = ", stores the position" if moves else ""
            yield f"removes {what}{stored}{note}", self._server.changed(there, redis), None

    def _removed(
        self, world: World, known: Known, name: str, keys: Mask, page: Page
    ) -> tuple[Redis, Message | None]:
        """``apply.lua`` without the position."""
        redis = world.redis
        reached = postgres.versions(world.database, page.position, self._config.keys)
        told = tuple(version if keys >> key & 1 else 0 for key, version in enumerate(reached))
        if "pattern" not in name:
            if self._config.refreshed:
                stale = self._config.serve_stale
                redis = scripts.set_aside(redis, page, keys, told, serve_stale=stale, off=self._off)
            else:
                redis = scripts.unlink(redis, keys)
        if name.endswith("_last") or Defence.NEED_LSN_EACH_SCRIPT not in self._off:
            redis = scripts.raise_need_lsn(redis, page.lsn)
        if not self._config.agents:  # nobody reads the log
            return redis._replace(invalidated=newest(redis.invalidated, told)), None
        if not keys and not page.others:
            return redis, None
        return scripts.append(redis, known.epoch, keys, told, self._config.log_max)

    def dropped(self, redis: Redis, name: str, keys: Mask, page: Page) -> Redis:
        """``drop.lua``."""
        if name == "drop":
            return scripts.unlink(redis, keys)
        if name == "drop_stale":
            return scripts.drop_stale(redis, keys)
        if Defence.NEED_LSN_BEFORE_DROP in self._off:
            return redis
        return scripts.raise_need_lsn(redis, page.lsn)


def became(world: World, number: int, worker: Worker) -> World:
    """The world with another worker ``number``."""
    return world._replace(workers=replaced(world.workers, number, worker))


def lost(world: World, number: int) -> World:
    """Whatever a worker remembers is gone: after a crash, a lost reply or a lost lease."""
    return became(world, number, Worker("begin") if len(world.workers) == 1 else Worker("standby"))


def refused(world: World, number: int, worker: Worker, off: frozenset[Defence]) -> World:
    """After a refusal: read the state again, or stand by."""
    if world.redis.fence != worker.fence and Defence.FENCE not in off:
        return lost(world, number)
    return became(world, number, Worker("begin", worker.fence))


def _moved(known: Known, page: Page) -> Known:
    return known._replace(position=page.position, database=page.database, flushed=page.lsn)


def _done(worker: Worker, page: Page) -> Worker:
    if page.more:
        return worker._replace(step="next_page", scripts=())
    return worker._replace(step="ready", page=None, scripts=())
