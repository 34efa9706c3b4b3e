"""Finds the async functions that ``unstale.toml`` names as loaders."""

import inspect
from importlib import import_module
from typing import Final, cast

from unstale.companion.refresh_context import RefreshLoader

SHAPE: Final = "Write `async def name(refresh: unstale.Refresh)` there; see docs/refresh.md."


class LoaderMistake(Exception):
    """A loader cannot be called.

    Attributes:
        problem: What is wrong, as a sentence without its full stop.
        remedy: What to do about it, as a sentence.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(f"{problem}. {remedy}")


def find(loader: str) -> RefreshLoader:
    """Return the function that ``module:function`` names; imports its module.

    Raises `LoaderMistake` if the module cannot be imported or has no such async function of one argument.
    """
    module, _, function = loader.partition(":")
    try:
        found: object = import_module(module)
    except BaseException as error:  # a script without a guard calls sys.exit when it is imported
        raise LoaderMistake(
            f"the module cannot be imported ({type(error).__name__}: {error})",
            "Correct what fails in it, install it where this process runs, or put it beside the rules file.",
        ) from error
    for name in function.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise LoaderMistake(f"there is no {name} in it", SHAPE) from None
    if not inspect.iscoroutinefunction(found) and not inspect.iscoroutinefunction(
        getattr(found, "__call__", None)  # noqa: B004 - an object that is called like an async function
    ):
        raise LoaderMistake("it is not an async function", SHAPE)
    assert callable(found)
    try:
        inspect.signature(found).bind(None)
    except TypeError:
        raise LoaderMistake("it cannot be called with one argument", SHAPE) from None
    return cast(RefreshLoader, found)
