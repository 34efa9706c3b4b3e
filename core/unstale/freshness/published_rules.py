"""The published rules as this agent knows them: the keys they own, and the TTL of each key."""

import logging
import random
import sys
import time
from collections import OrderedDict
from typing import Final

from unstale.errors import MessageError
from unstale.freshness.near_miss import near_miss
from unstale.protocol import codec
from unstale.protocol.messages import PublishedRules
from unstale.redis_tier.shared_tier import SharedTier

logger = logging.getLogger("unstale")

REMEMBERED: Final = 10_000
"""Keys whose rules are cached, so that a read need not match all patterns again."""
MOST_COMPARED: Final = 1_000
"""Keys that are compared with the patterns to find a typo; one takes about a millisecond for 30 patterns."""


class KnownRules:
    """The published rules; read on each subscription, and when a watermark has the hash of other rules."""

    def __init__(
        self,
        tier: SharedTier,
        *,
        default_ttl: float,
        jitter: float,
        negative_ttl: float | None = None,
        detached_ttl: float = 30.0,
        large_value: int = 0,
    ) -> None:
        self._tier = tier
        self._large_value = large_value or sys.maxsize
        self._detached_ttl = detached_ttl
        self._lost: set[str] = set()
        self._compared = 0
        self._default_ttl = default_ttl
        self._jitter = jitter
        self.negative_ttl = negative_ttl
        """Longest life in seconds of a value that is None; None: the same as of other values."""
        self._rules = PublishedRules()
        self._known: OrderedDict[str, tuple[bool, float | None, float | None, bool]] = OrderedDict()
        self._warned: set[str] = set()
        self.loaded = False
        """True once Redis was asked for the rules, even if it had none."""

    @property
    def hash(self) -> str:
        """Hash of the known rules. If a watermark has another hash, the rules must be loaded again."""
        return self._rules.hash

    async def load(self) -> None:
        """Read the rules from Redis; raises `RedisUnavailable`. Unreadable rules are logged and ignored."""
        if not self._tier.shared:
            return  # an embedded worker passes its rules to `adopt`
        try:
            rules = await self._tier.rules()
        except MessageError as error:
            logger.warning("the published rules cannot be read; the known rules stay in force: %s", error)
            return
        if rules is not None:  # after Redis was emptied, keep the rules that are known
            self.adopt(rules)
        self.loaded = True

    def adopt(self, rules: PublishedRules) -> None:
        """Put these rules in force."""
        self._rules, self.loaded = rules, True
        self._known.clear()
        self._lost.clear()

    def check(self, key: str) -> None:
        """Raise ValueError if a rule owns ``key``, but changes would remove another spelling of it."""
        if self._rules.forms and key not in self._known:
            self._look_up(key)

    def check_pattern(self, pattern: str) -> None:
        """Raise ValueError if ``pattern`` begins like keys of a rule, in another spelling of their value."""
        rights = [right for form in self._rules.forms if (right := form.right_beginning(pattern))]
        if rights and pattern not in rights:
            raise ValueError(
                f"pattern {pattern!r} matches no key that a rule owns, because changes write the value "
                f"differently; use {rights[0]!r}"
            )

    def owns(self, key: str) -> bool:
        """Return True if a rule owns ``key``."""
        return self._look_up(key)[0]

    def asks_life(self, key: str) -> bool:
        """Return True if a read must ask how long the value of ``key`` lives in Redis.

        That is so for a key that no rule owns, and after `lives_shorter`. The TTL of any other key is a
        safety net, as changes invalidate it: its near copy may outlive the one in Redis, by one TTL at most.
        """
        return self._look_up(key)[3]

    def lives_shorter(self, key: str) -> None:
        """Record that a value of ``key`` lives shorter than its rule says: later reads ask how long."""
        self._known[key] = (*self._look_up(key)[:3], True)

    def near_ttl(self, key: str) -> float:
        """Return how long an owned value without a shorter TTL of its own may be kept near."""
        ttl = self._look_up(key)[1]
        return min(self._default_ttl, codec.UNPUBLISHED_TTL) if ttl is None else ttl

    def marked(self, key: str, value: bytes, seconds: float) -> bytes:
        """Return ``value`` as it is stored: marked if it lives shorter than other processes expect."""
        self.check_size(key, value)
        owned, ttl = self._look_up(key)[:2]
        expected = codec.UNPUBLISHED_TTL if ttl is None else ttl
        return codec.shorter_lived(value) if owned and seconds < expected else value

    def refreshed(self, key: str) -> bool:
        """Return True if ``key`` is refreshed when it changes."""
        return bool(self._rules.refresh) and self._look_up(key)[2] is not None

    def serves_stale(self, key: str) -> bool:
        """Return True if the old value of ``key`` may be served while it is refreshed."""
        return bool(self._rules.refresh) and bool(self._look_up(key)[2])

    @property
    def keeps_stale(self) -> bool:
        """True if the old value of any key may be kept after a change, or if the rules are not known."""
        return not self.loaded or any(seconds for _, seconds in self._rules.refresh)

    def ttl(self, key: str) -> float:
        """Return the TTL of ``key``: that of the first matching ``[ttl]`` pattern, else ``default_ttl``."""
        ttl = self._look_up(key)[1]
        return self._default_ttl if ttl is None else ttl

    def ttl_of_load(
        self, key: str, ttl: float | None, negative_ttl: float | None = None, *, negative: bool = False
    ) -> float:
        """Return the TTL of a loaded value, before it is `shortened`.

        A value that is None (``negative``) lives at most ``negative_ttl`` seconds, or as the setting says.
        """
        if ttl is None:
            self._warn_of_default(key)
            ttl = self.ttl(key)
        if negative:
            ttl = self.bounded(ttl, negative_ttl)
        return self.capped(key, ttl)

    def shortened(self, ttl: float) -> float:
        """Return ``ttl`` shortened at random, so that values do not expire together."""
        return ttl * (1 - self._jitter * random.random())

    def bounded(self, seconds: float, negative_ttl: float | None = None) -> float:
        """Return the TTL of a value that is None: at most ``seconds``, and at most the negative TTL."""
        most = self.negative_ttl if negative_ttl is None else negative_ttl
        return seconds if most is None else min(seconds, most)

    def ttl_of_set(self, key: str, ttl: float | None) -> float:
        """Return the TTL of a value that the caller sets: ``ttl`` itself if given, without jitter."""
        if ttl is None:
            self._warn_of_default(key)
            ttl = self.ttl(key)
        return self.capped(key, ttl)

    def capped(self, key: str, seconds: float) -> float:
        """Return ``seconds``, or at most ``detached_ttl`` for a key that no rule owns any more.

        Other processes may go on with the template that the rules had before. No change invalidates its keys.
        """
        if not self._rules.former:
            return seconds
        self._look_up(key)
        return min(seconds, self._detached_ttl) if key in self._lost else seconds

    def _note_unowned(self, key: str) -> None:
        """Note why no rule owns ``key``, and say it once: it lost its owner, or it is probably mistyped."""
        if former := self._rules.lost_owner(key, now=time.time()):
            self._lost.add(key)
            self.warn_once(
                key,
                "the rules no longer own %r: %r was removed from them, so no change invalidates the key any "
                "more. It is kept for at most %g s; deploy the code that uses the new key, or add the "
                "template to keys again until no agent uses it",
                key,
                former,
                self._detached_ttl,
            )
            return
        matched = self._rules.ttl_pattern(key)
        if matched is None or self._compared >= MOST_COMPARED:
            return
        self._compared += 1
        if meant := near_miss(key, self._rules.patterns, matched=matched[0]):
            self.warn_once(
                key,
                "no rule owns %r, so no change invalidates it; [ttl] %r keeps it for %g s. Did you mean %r?",
                key,
                matched[0],
                matched[1],
                meant,
            )

    def _warn_of_default(self, key: str) -> None:
        if self.loaded and not self._rules.hash:
            self.warn_once(
                "",
                "Redis holds no rules, so no worker has ever led there: a value is kept in this process, "
                "and not for long. Start `unstale worker`, with the same REDIS_URL and UNSTALE_NAMESPACE",
            )
            return
        owned, ttl = self._look_up(key)[:2]
        if not owned and ttl is None and self.loaded:
            self.warn_once(
                key,
                "no rule owns %r and no [ttl] pattern matches it: it is kept for %g s, whatever changes in "
                "the database; add a rule, or pass ttl=",
                key,
                self._default_ttl,
            )

    def check_size(self, key: str, value: bytes) -> None:
        """Log a warning about a large value."""
        if len(value) > self._large_value:
            self.warn_once(
                key,
                "large value: %r has %.1f MB. Redis serves nobody else while it sends one, and each reader "
                "waits for all of it; store less, or raise UNSTALE_LARGE_VALUE",
                key,
                len(value) / 1e6,
            )

    def warn_of_full_redis(self) -> None:
        """Log once that Redis takes no value."""
        self.warn_once(
            "",
            "Redis takes no new value: it is out of memory, or cannot save. Loaded values are not kept "
            "there. Raise maxmemory, or set maxmemory-policy to volatile-lru",
        )

    def warn_once(self, key: str, sentence: str, *args: object) -> None:
        """Log a warning about ``key``, once for all keys that differ only in their digits."""
        shape = sentence[:20] + "".join("#" if c.isdigit() else c for c in key)
        if shape not in self._warned and len(self._warned) < REMEMBERED:
            self._warned.add(shape)
            logger.warning(sentence, *args)

    def _can_change(self, key: str) -> bool:
        """Return True if changes remove ``key``, which a pattern matches, and False if no row can have it.

        Raises ValueError if they would remove another spelling of it.
        """
        right = self._rules.right_key(key) if self._rules.forms else key
        if right is None:
            self.warn_once(
                key,
                "%r looks like a key of a rule, but no row can have it, as the columns have other types: no "
                "change removes it, so it is cached like a key that no rule owns",
                key,
            )
        elif right != key:
            raise ValueError(
                f"cache key {key!r} is owned by a rule, but a change would remove it only as {right!r}; use "
                "that spelling, which str() gives of the column's value"
            )
        return right is not None

    def _look_up(self, key: str) -> tuple[bool, float | None, float | None, bool]:
        known = self._known.get(key)
        if known is None:
            owned = self._rules.owns(key)
            if owned:
                owned = self._can_change(key)
            else:
                self._note_unowned(key)
            known = self._known[key] = (
                owned,
                self._rules.ttl_of(key),
                self._rules.refresh_of(key),
                not owned,
            )
            if len(self._known) > REMEMBERED:
                self._lost.discard(self._known.popitem(last=False)[0])
        return known

    def __repr__(self) -> str:
        return f"<KnownRules {len(self._rules.patterns)} patterns, hash {self.hash[:8] or 'none'}>"
