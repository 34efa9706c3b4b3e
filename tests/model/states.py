"""States of a model: named tuples that are changed cheaply."""

from typing import Any, TypeVar

T = TypeVar("T", bound=type[Any])


def state(kind: T) -> T:
    """Give a named tuple a `_replace` in less than half the time: exploring calls it millions of times."""
    places = {name: place for place, name in enumerate(kind._fields)}
    new = tuple.__new__

    def replace(self: Any, /, **fields: Any) -> Any:
        values = list(self)
        for name, value in fields.items():
            values[places[name]] = value
        return new(kind, values)

    kind._replace = replace
    return kind
