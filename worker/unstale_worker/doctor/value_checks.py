"""Check how values stand in Redis: plain, compressed or encrypted, and by which keys."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

from redis.asyncio import Redis

from unstale.protocol import codec, sealed
from unstale.protocol.globs import matches
from unstale.protocol.names import TAGGED, Names
from unstale.protocol.tags import without_header
from unstale.sealing.sealer import sealer_of
from unstale.settings import WorkerSettings
from unstale_worker.doctor.findings import Finding, ok, warning
from unstale_worker.rules import Rules

SUBJECT: Final = "values"
SAMPLE: Final = 500
"""Values that are looked at; SCAN returns keys in a random order."""
ROUNDS: Final = 50
"""Most steps of SCAN."""
BEGINNING: Final = 2_200
"""Bytes that are read of each: more than the header of a value with many tags has."""


async def values(redis: Redis, settings: WorkerSettings, rules: Rules | None) -> AsyncIterator[Finding]:
    """Look at some values: warn of plain ones beside encrypted ones, and of keys that are not known here."""
    forms = await _forms(redis, settings.names, rules)
    total = sum(forms.values())
    own = sealer_of(settings)
    ids = () if own is None else await own.key_ids()
    said = ", ".join(f"{number} {form}" for form, number in forms.most_common())
    what = f"of {total} values in Redis: {said}" if total else "no value in Redis yet"
    encrypts = settings.value_keys is not None or settings.value_key_function is not None
    if encrypts and not ids and not settings.value_key_users:
        yield warning(
            SUBJECT,
            "UNSTALE_VALUE_KEY_FUNCTION has no keys now, so nothing is stored",
            "See the log of the worker, and whether the function works here.",
        )
    elif encrypts and ids:
        what = f"encrypted by {ids[0]!r}, read by {', '.join(map(repr, ids))}; {what}"
    unknown = sorted(
        form for form in forms if form.startswith(ENCRYPTED) and form.removeprefix(ENCRYPTED) not in ids
    )
    if forms[PLAIN] + forms[COMPRESSED] and (encrypts or any(form.startswith(ENCRYPTED) for form in forms)):
        yield warning(
            SUBJECT,
            f"{what}. Plain ones come from a process without UNSTALE_VALUE_KEYS, or from the time before",
            "Give every agent and worker the same UNSTALE_VALUE_KEYS; older values expire.",
        )
    elif unknown and not settings.value_key_users:
        yield warning(
            SUBJECT,
            f"{what}. There is no such key here",
            "Give this process the UNSTALE_VALUE_KEYS of the agents, or the agents those of the worker.",
        )
    else:
        yield ok(SUBJECT, what)


PLAIN: Final = "plain"
COMPRESSED: Final = "compressed"
ENCRYPTED: Final = "encrypted by "


async def _forms(redis: Redis, names: Names, rules: Rules | None) -> Counter[str]:
    """Count the forms of some values that the rules own."""
    forms: Counter[str] = Counter()
    cursor: int = 0
    for _ in range(ROUNDS):
        found: Any = await redis.scan(cursor, count=SAMPLE, _type="string")
        cursor, raw = int(found[0]), found[1]
        keys = [key.decode("utf-8", "replace") for key in raw]
        keys = [key for key in keys if not key.startswith("unstale:")][: SAMPLE * 2]
        async with redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.getrange(key, 0, BEGINNING)
            contents = await pipe.execute()
        for key, content in zip(keys, contents, strict=True):
            form = _form(content)
            # What no rule owns and nothing marks as unstale's may be anything.
            if form is not None and (
                form != PLAIN or content.startswith(TAGGED) or _owned(rules, names.key_of(key))
            ):
                forms[form] += 1
        if not cursor or sum(forms.values()) >= SAMPLE:
            break
    return forms


def _owned(rules: Rules | None, key: str) -> bool:
    return rules is not None and any(
        matches(pattern, key) for watch in rules.watches for pattern in watch.patterns
    )


def _form(content: bytes) -> str | None:
    data = without_header(content)
    if not codec.is_value(data):
        return None
    if data.startswith(sealed.COMPRESSED):
        return COMPRESSED
    key_id = sealed.key_id(data)
    return PLAIN if key_id is None else f"{ENCRYPTED}{key_id}"
