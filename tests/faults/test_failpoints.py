"""The failpoints themselves: each is where the registry says, costs nothing while off, and does what it is
told."""

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import unstale
import unstale_worker
from faults.test_41_refresh_steps import STEPS
from unstale.errors import SettingError
from unstale.runtime import failpoints
from unstale.runtime.failpoints import POINTS, Failpoint, armed, reach
from workers import child, seams

SOURCES = (Path(unstale.__file__).parent, Path(unstale_worker.__file__).parent)
SOME = next(iter(POINTS))


def placed() -> Iterator[tuple[str, str, bool]]:
    """Every point in the sources: its name, the method or the module's function that holds it, and whether a
    look at ``on`` guards it."""
    for path in sorted(path for folder in SOURCES for path in folder.rglob("*.py")):
        if path.name == "failpoints.py":
            continue
        module = ast.parse(path.read_text())
        holders = [(path.stem, module.body)]
        holders += [(found.name, found.body) for found in ast.walk(module) if isinstance(found, ast.ClassDef)]
        for holder, body in holders:
            for function in body:
                if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                guarded = {
                    id(call)
                    for test in ast.walk(function)
                    if isinstance(test, ast.If) and "failpoints.on" in ast.unparse(test.test)
                    for call in ast.walk(test)
                }
                for call in ast.walk(function):
                    if isinstance(call, ast.Call) and ast.unparse(call.func) == "failpoints.reach":
                        (name,) = call.args
                        assert isinstance(name, ast.Constant)
                        yield str(name.value), f"{holder}.{function.name}", id(call) in guarded


def test_every_point_is_placed_once_where_the_registry_says() -> None:
    found = list(placed())
    assert sorted((name, holder) for name, holder, _ in found) == sorted(
        (name, holder) for name, text in POINTS.items() for holder in text.partition(":")[0].split(", ")
    )
    assert all(guarded for _, _, guarded in found), "a point without a look at failpoints.on costs something"


def test_every_point_is_needed_by_a_test() -> None:
    """The steps of refreshes are all of those in the registry: `test_41_refresh_steps`."""
    tests = Path(__file__).parent.parent
    texts = [path.read_text() for path in tests.rglob("*.py") if path.name != Path(__file__).name]
    used = {name for name in POINTS if any(f'"{name}' in text for text in texts)}
    assert POINTS.keys() == used | set(STEPS)


def test_nothing_is_armed_by_itself() -> None:
    assert failpoints.on is False


def test_an_unknown_name_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(SettingError, match=SOME), armed("no.such_point"):
        pass


async def test_armed_it_raises_holds_runs_and_counts() -> None:
    with armed(SOME) as point:
        assert failpoints.on
        for _ in range(3):
            await reach(SOME)
        assert point.hits == 3
    with armed(SOME, error=Failpoint("here"), first=2):
        await reach(SOME)
        with pytest.raises(Failpoint, match="here"):
            await reach(SOME)
    ran: list[int] = []
    with armed(SOME, run=lambda: ran.append(1)):
        await reach(SOME)
    assert ran == [1]
    with armed(SOME, hold=True) as point:
        task = asyncio.create_task(reach(SOME))
        await point.wait()
        assert not task.done()
        point.release()
        await task
    await reach(SOME)
    assert failpoints.on is False


async def test_leaving_releases_whoever_is_held() -> None:
    with armed(SOME, hold=True) as point:
        task = asyncio.create_task(reach(SOME))
        await point.wait()
    await task


def test_a_process_is_not_armed_by_its_environment() -> None:
    """Nor is a worker in production, whatever its environment holds."""
    text = Path(failpoints.__file__).read_text()
    assert not {"os", "signal"} & {
        name.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }


@pytest.mark.parametrize("text", ["x", f"{SOME}=explode", f"{SOME}=sleep", f"{SOME}=kill@x"])
def test_a_fault_of_a_child_that_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="is not NAME=kill"):
        child.parse(text)


async def test_a_seam_acts_before_or_after_the_method_it_replaces() -> None:
    class Counter:
        calls = 0

        async def call(self, number: int) -> int:
            self.calls += number
            return self.calls

    original, counter = Counter.call, Counter()
    met: list[int] = []
    with (
        seams.before(Counter, "call", run=lambda: met.append(counter.calls)),
        seams.after(Counter, "call", run=lambda: met.append(-counter.calls), where=lambda number: number > 1),
    ):
        assert await counter.call(1) == 1
        assert await counter.call(2) == 3
    assert met == [0, 1, -3]
    assert Counter.call is original
