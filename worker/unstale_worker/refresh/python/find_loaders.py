"""Finds the async functions that ``unstale.toml`` names as loaders."""

import inspect
import sys
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from unstale.companion.refresh_context import RefreshLoader
from unstale.errors import RuleError
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import PythonLoader, RefreshSpec

SHAPE: Final = "Write `async def name(refresh: unstale.Refresh)` there; see docs/refresh.md."


def make_importable(rules: Rules) -> None:
    """Let modules beside the rules file be imported, wherever the command was started."""
    folder = str(Path(rules.file).resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)


def mistakes(rules: Rules) -> list[RuleError]:
    """Return what is wrong with the Python loaders that ``rules`` name; imports their modules."""
    make_importable(rules)
    found: list[RuleError] = []
    for spec in rules.refreshes:
        if isinstance(spec.loader, PythonLoader):
            try:
                resolve(spec, file=rules.file)
            except RuleError as mistake:
                found.append(mistake)
    return found


def resolve(spec: RefreshSpec, *, file: str) -> RefreshLoader:
    """Return the function of a Python loader; imports its module.

    Raises `RuleError` if the module cannot be imported or has no such async function of one argument.
    """
    loader = spec.loader
    assert isinstance(loader, PythonLoader)

    def mistake(problem: str, remedy: str) -> RuleError:
        return RuleError(
            file=file,
            line=spec.line,
            field=f'refresh."{spec.template.text}".loader',
            value=str(loader),
            problem=problem,
            remedy=remedy,
        )

    try:
        found: object = import_module(loader.module)
    except (Exception, SystemExit) as error:  # a script without a guard calls sys.exit when it is imported
        folder = Path(file).resolve().parent
        raise mistake(
            f"the module cannot be imported ({type(error).__name__}: {error})",
            f"Correct what fails in it, install it where this process runs, or put it into {folder}.",
        ) from error
    for name in loader.function.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise mistake(f"there is no {name} in it", SHAPE) from None
    if not inspect.iscoroutinefunction(found) and not inspect.iscoroutinefunction(
        getattr(found, "__call__", None)  # noqa: B004 - an object that is called like an async function
    ):
        raise mistake("it is not an async function", SHAPE)
    assert callable(found)
    try:
        inspect.signature(found).bind(None)
    except TypeError:
        raise mistake("it cannot be called with one argument", SHAPE) from None
    return cast(RefreshLoader, found)
