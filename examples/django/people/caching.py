"""The cache of the process, and what is in it."""

from people.models import Person
from unstale.sync import Cache

cache = Cache.from_env()
"""For all threads. Each gunicorn worker opens its own on first use, also with ``--preload``."""


@cache.cached("user:{person_id}:profile")
def profile(person_id: int) -> dict[str, str] | None:
    return Person.objects.filter(id=person_id).values("name", "plan").first()
