"""What the worker calls to write a greeting anew; unstale.toml names it."""

from companion.loaders import Loaders
from companion.values import Greeting
from unstale import Refresh


async def greeting(refresh: Refresh) -> Greeting | None:
    """The greeting of the user in the key; the same loader that a reader would have called."""
    return await Loaders(refresh.pool).greeting(int(refresh.fields["user_id"]))
