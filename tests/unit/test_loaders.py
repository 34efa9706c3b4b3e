"""Loaders: which callables are accepted, and which of them receive the `Load`."""

from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Annotated, Any

import pytest

from unstale import Load
from unstale.reading.loader import call, load_parameter

if TYPE_CHECKING:
    from asyncpg import Pool


class Profiles:
    async def plain(self) -> int:
        return 1

    async def loading(self, load: Load) -> int:
        return 2

    async def __call__(self, load: Load) -> int:
        return 3


def by_position(load: Load) -> str:
    return load.key


def by_name(*, load: Load) -> str:
    return load.key


def optional(user: int = 42, load: Load | None = None) -> str:
    return "none" if load is None else load.key


def quoted(load: "Load") -> str:
    return load.key


def unresolvable(load: "Load", pool: "Pool[Any] | None" = None) -> str:
    return load.key


def unreadable(load: Any, text: Any = "x", odd: Any = 1) -> str:
    key: str = load.key
    return key


unreadable.__annotations__ = {"load": "None | Load", "text": "'user' | None", "odd": "not code"}


def annotated(load: Annotated[Load, "of this key"]) -> str:
    return load.key


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        (lambda: 1, None),
        (lambda user=42: 1, None),
        (lambda *args, **kwargs: 1, None),
        (lambda *, key=1: 1, None),
        (Profiles().plain, None),
        (Profiles().loading, ""),
        (Profiles(), ""),
        (partial(lambda user: 1, 42), None),
        (partial(by_position), ""),
        (by_position, ""),
        (by_name, "load"),
        (optional, "load"),
        (quoted, ""),
        (unresolvable, ""),
        (annotated, ""),
        (unreadable, ""),
        (dict, None),
    ],
)
async def test_a_parameter_annotated_load_receives_it(loader: Any, expected: str | None) -> None:
    assert load_parameter(loader) == expected
    if expected is not None and not isinstance(loader, Profiles):
        assert await call(loader, Load("k", None, primary=False)) in ("k", 2)


@pytest.mark.parametrize(
    ("loader", "named"),
    [
        (lambda load: 1, "'load'"),
        (lambda user_id: 1, "'user_id'"),
        (lambda *, key: 1, "'key'"),
        (partial(lambda user, load: 1, 42), "'load'"),
        (lambda number: 1, "'number'"),
    ],
)
async def test_any_other_required_parameter_is_an_error_that_says_what_to_do(loader: Any, named: str) -> None:
    with pytest.raises(TypeError, match=f"requires the parameter {named}.*annotate it"):
        await call(loader, Load("k", None, primary=False))


async def test_an_integer_is_no_load() -> None:
    def of_user(user_id: int) -> int:
        raise AssertionError("it would be called with a Load as the user's id")

    with pytest.raises(TypeError, match=r"'user_id'.*`lambda: of_user"):
        await call(of_user, Load("k", None, primary=False))  # type: ignore[arg-type]  # the mistake


async def test_any_kind_of_callable_loads() -> None:
    load = Load("k", None, primary=False)
    assert await call(lambda: 1, load) == 1
    assert await call(Profiles().plain, load) == 1
    assert await call(lambda: Profiles().plain(), load) == 1
    assert await call(Profiles(), load) == 3


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


async def test_two_loaders_of_one_decorator_are_two() -> None:
    """All functions of one decorator share a code object, but each has its own signature."""
    load = Load("k", None, primary=False)
    assert await call(timed(lambda: 1), load) == 1
    assert await call(timed(by_position), load) == "k"
    assert await call(timed(by_name), load) == "k"
    assert await call(timed(lambda: 2), load) == 2


async def test_partials_of_one_function_are_told_apart_by_what_they_bind() -> None:
    def of_user(load: Load, user: int | None = None, *, tenant: int = 0) -> object:
        return load.key, user, tenant

    load = Load("k", None, primary=False)
    assert await call(partial(of_user), load) == ("k", None, 0)
    assert await call(partial(of_user, load), load) == ("k", None, 0)
    assert await call(partial(of_user, tenant=1), load) == ("k", None, 1)
    assert await call(partial(of_user, load=load), load) == ("k", None, 0)
    profiles = Profiles()
    assert await call(partial(profiles.loading), load) == 2
    assert await call(partial(Profiles.loading, profiles), load) == 2
    assert await call(partial(profiles.loading, load), load) == 2


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self) -> int:
        return 1


async def test_a_loader_without_a_hash_loads() -> None:
    assert await call(Unhashable(), Load("k", None, primary=False)) == 1


async def loaded() -> int:
    return 1


@pytest.mark.parametrize(
    ("made", "named"), [(loaded, "coroutine"), (dict, "dict"), (lambda: None, "NoneType"), (str, "str")]
)
def test_a_result_in_place_of_a_loader_is_refused_with_a_remedy(made: Callable[[], Any], named: str) -> None:
    with pytest.raises(TypeError, match=f"got {named}. Pass the function, not its result"):
        load_parameter(made())
