"""The rows and row versions that each cached value is made from; reads are checked against them."""

from collections.abc import Sequence
from typing import Final, TypeAlias

from companion.values import Greeting, Memory, Preferences, Profile, State

Value: TypeAlias = Profile | Preferences | State | Greeting

GREETING: Final = "greeting_instructions"
KINDS: Final = ("profile", "settings", "state", GREETING)
FLOOR_ONLY: Final = "plan:"
"""Prefix of traces without a commit of their own: the writer reports only the change of the organization."""


def sources(kind: str, user: int) -> tuple[str, ...]:
    """Return the rows whose traces determine the minimum version of a value of a kind."""
    match kind:
        case "profile" | "state":
            return (f"{kind}:{user}",)
        case "settings":
            return (f"settings:{user}", f"plan:{user}")
        case "search":
            return (f"memories:{user}",)
        case "greeting_instructions":
            return (f"profile:{user}", f"memories:{user}")
        case _:
            raise ValueError(f"unknown kind of value {kind!r}; known are {', '.join(KINDS)}")


def versions_found(memories: Sequence[Memory], *, user: int) -> dict[str, int]:
    """Return the newest version among all memories of ``user``."""
    return {f"memories:{user}": max((memory.version for memory in memories), default=0)}


def versions_of(value: Value, *, user: int) -> dict[str, int]:
    """Return the rows that a value of ``user`` was made from, with their versions."""
    match value:
        case Profile():
            return {f"profile:{user}": value.version}
        case State():
            return {f"state:{user}": value.version}
        case Preferences():
            return {
                f"settings:{user}": value.version,
                f"plan:{user}": value.plan_version,
                f"organization:{value.organization_id}": value.plan_version,
            }
        case Greeting():
            return {
                f"profile:{user}": value.profile_version,
                f"memories:{user}": value.memories_version,
            }
