"""What the worker calls to write a greeting anew; unstale.toml names it."""

from companion.loaders import Loaders
from companion.values import Greeting
from unstale import Refresh


async def greeting(refresh: Refresh) -> Greeting | None:
    """The greeting of the user in the key, as a reader would load it; no model is asked if nothing it says
    has changed: then the old one is stored again."""
    loaders = Loaders(refresh.pool)
    facts = await loaders.facts(int(refresh.fields["user_id"]))
    return None if facts is None or refresh.unchanged(facts) else await loaders.write(facts)
