"""An error for a misspelt option that names the one that was meant."""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def suggesting(function: Callable[P, R]) -> Callable[P, R]:
    """Let ``function`` suggest an option for one that it does not have; not for what runs on every read."""
    parameters = inspect.signature(function).parameters.values()
    names = {parameter.name for parameter in parameters}
    options = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in names:
                near = get_close_matches(name, options, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(options)}"
                raise TypeError(f"{function.__name__} has no option {name!r}; {hint}")
        return function(*args, **kwargs)

    return call
