"""Which rows a cached value of the companion is made of, and of which versions: what reads are judged by."""

from typing import Final, TypeAlias

from companion.values import Greeting, Preferences, Profile, State

Value: TypeAlias = Profile | Preferences | State | Greeting

GREETING: Final = "greeting_instructions"
KINDS: Final = ("profile", "settings", "state", GREETING)
FLOOR_ONLY: Final = "plan:"
"""The writer reports an organization's change as one; its members' traces only forbid older values."""


def sources(kind: str, user: int) -> tuple[str, ...]:
    """Whose traces say how old the value of a kind may be."""
    match kind:
        case "profile" | "state":
            return (f"{kind}:{user}",)
        case "settings":
            return (f"settings:{user}", f"plan:{user}")
        case "greeting_instructions":
            return (f"profile:{user}", f"memories:{user}")
        case _:
            raise ValueError(f"no value of the companion is called {kind!r}")


def versions_of(value: Value, *, user: int) -> dict[str, int]:
    """The rows that a value of ``user`` was made of, and the version of each."""
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
