"""The published rules as this agent knows them: the keys they own, and the TTL of each key."""

import logging
import random
import sys
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from unstale.errors import MessageError
from unstale.freshness.near_miss import near_miss
from unstale.near_cache.tallies import OTHERS, UNCOUNTED, Tallies, Tally
from unstale.protocol import codec
from unstale.protocol.messages import PublishedRules
from unstale.protocol.models import OtherSchema
from unstale.protocol.names import TAG
from unstale.protocol.tags import check_tags, is_record, record, shown
from unstale.redis_tier.shared_tier import SharedTier

logger = logging.getLogger("unstale")

REMEMBERED: Final = 10_000
"""Keys whose rules are cached, so that a read need not match all patterns again."""
MOST_COMPARED: Final = 100
"""Keys that are compared with the patterns to find a typo, one of each shape, and of the shapes beyond those
that are told apart; one takes about a millisecond for 30 patterns."""


@dataclass(frozen=True, slots=True)
class KeyRules:
    """The rules of one key.

    Attributes:
        owned: True if changes in the database invalidate the key.
        ttl: Seconds of the first matching ``[ttl]`` pattern, or None.
        stale: Seconds for which the old value may be served while the key is refreshed; None: not refreshed.
        near: Seconds that an owned value without a shorter TTL of its own may be kept near.
        most: Seconds that any value of the key may be kept: few if no rule owns the key any more.
        asks_life: True if a read must ask how long the value lives in Redis. That is so for a key that no
            rule owns, and after a value that hid how long it lives. The TTL of any other key is a safety net,
            as changes invalidate it: its near copy may outlive the one in Redis, by one TTL at most.
        soft: ``soft_timeout`` of the rules in seconds; 0: none.
        spare: ``stale_if_error`` of the rules in seconds: how long a spare value may be answered; 0: not at
            all.
        tally: Counts of the keys with the same owner; of a key without one, of those of the same shape.
    """

    owned: bool
    ttl: float | None
    stale: float | None
    near: float
    most: float
    asks_life: bool
    soft: float
    spare: float
    tally: Tally


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
        max_value_bytes: int = sys.maxsize,
        soft_timeout: float | None = None,
        stale_if_error: float | None = None,
    ) -> None:
        self._soft_timeout, self._stale_if_error = soft_timeout, stale_if_error or 0.0
        self._tier = tier
        self._large_value = large_value or sys.maxsize
        self._max_value_bytes = max_value_bytes
        self.too_large_values = self.unreadable_values = 0
        self._detached_ttl = detached_ttl
        self._compared: list[str] = []
        self._default_ttl = default_ttl
        self._jitter = jitter
        self.negative_ttl = negative_ttl
        """Longest life in seconds of a value that is None; None: the same as of other values."""
        self._rules = PublishedRules()
        self._known: OrderedDict[str, KeyRules] = OrderedDict()
        self._tags: OrderedDict[tuple[str, ...], tuple[str, ...]] = OrderedDict()
        self._warned: set[str] = set()
        self.loaded = False
        """True once Redis was asked for the rules, even if it had none."""
        self.tallies = Tallies()
        """Counts of reads, loads and fills."""
        self.former_used: set[str] = set()
        """Patterns of former watches whose keys, or tags, were looked up here."""

    @property
    def hash(self) -> str:
        """Hash of the known rules. If a watermark has another hash, the rules must be loaded again."""
        return self._rules.hash

    @property
    def published(self) -> PublishedRules:
        """The rules in force here."""
        return self._rules

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
        self._compared.clear()
        self._tags.clear()

    def check(self, key: str, own: str) -> None:
        """Raise ValueError or TypeError if ``key`` cannot be cached; see `codec.check_key`.

        That includes a key that a rule owns if changes would remove another spelling of it.
        """
        if key not in self._known or key.startswith(TAG):  # a tag's record may be known, and is no key
            codec.check_key(key, own=own)
            if self._rules.forms:
                self._look_up(key)

    def check_pattern(self, pattern: str) -> None:
        """Raise ValueError if ``pattern`` begins like keys of a rule, in another spelling of their value."""
        rights = [right for form in self._rules.forms if (right := form.right_beginning(pattern))]
        if rights and pattern not in rights:
            raise ValueError(
                f"pattern {pattern!r} matches no key that a rule owns, because changes write the value "
                f"differently; use {rights[0]!r}"
            )

    def of(self, key: str) -> KeyRules:
        """Return the rules of ``key``."""
        return self._known.get(key) or self._look_up(key)

    def owns(self, key: str, tags: Collection[str] = ()) -> bool:
        """Return True if a rule owns ``key`` or one of ``tags``."""
        return self.of(key).owned or (bool(tags) and any(self.of(record(tag)).owned for tag in tags))

    def tags(self, key: str, tags: Iterable[str]) -> tuple[str, ...]:
        """Return the tags of a value of ``key``, checked and sorted; warn of a tag that no rule owns.

        Raises TypeError or ValueError for what cannot be a tag; and for a key that the worker refreshes, as
        it would store the value without tags.
        """
        given = tuple(tags) if isinstance(tags, list) else tags
        known = self._tags.get(given) if isinstance(given, tuple) else None
        found = check_tags(given) if known is None else known
        if found and self.refreshed(key):
            raise ValueError(
                f"cache key {key!r} cannot have tags: a [refresh] rule lets the worker store its value, "
                "without tags. Name in keys of the rules what invalidates it, or remove the [refresh]"
            )
        if known is not None:
            return known
        for tag in found:
            if not self.of(record(tag)).owned and self.loaded and self._rules.hash:
                self.warn_once(
                    record(tag),
                    "no rule owns the tag %r, so only invalidate_tag() invalidates what is stored under it; "
                    "add it to tags of a [[watch]]",
                    tag,
                )
        if isinstance(given, tuple):
            self._tags[given] = found
            if len(self._tags) > REMEMBERED:
                self._tags.popitem(last=False)
        return found

    def may_own(self, key: str) -> bool:
        """Return True if a rule owns ``key``, without looking for a misspelling of it."""
        rules = self._rules
        if rules.owner(key) is None or rules.lost_owner(key, now=time.time()):
            return False
        return not (rules.forms and rules.right_key(key) is None)

    def seconds_near(
        self,
        key: str,
        known: KeyRules,
        value: bytes,
        life: float | None,
        ttl: float | None,
        negative_ttl: float | None,
    ) -> float | None:
        """Return how long a value of Redis may be kept near; None: not at all, as the next read asks first.

        ``known`` are the rules of the key, and ``life`` is how long the value lives in Redis, if that was
        asked. The TTLs are those that the caller wants.
        """
        if life is None:
            if known.asks_life or codec.hides_its_life(value):
                self._known[key] = replace(known, asks_life=True)
                return None
            life = known.near
        elif life == inf:
            life = self.ttl(key)
        seconds = life if ttl is None else min(life, ttl)
        if codec.is_nothing(value):
            seconds = self.bounded(seconds, negative_ttl)
        return min(seconds, known.most)

    def marked(self, key: str, value: bytes, seconds: float) -> bytes:
        """Return ``value`` as it is stored: marked if it lives shorter than other processes expect."""
        self.check_size(key, value)
        known = self.of(key)
        expected = codec.UNPUBLISHED_TTL if known.ttl is None else known.ttl
        return codec.shorter_lived(value) if known.owned and seconds < expected else value

    def refreshed(self, key: str) -> bool:
        """Return True if ``key`` is refreshed when it changes."""
        return self.of(key).stale is not None

    def serves_stale(self, key: str) -> bool:
        """Return True if the old value of ``key`` may be served while it is refreshed."""
        return bool(self.of(key).stale)

    def soft_timeout(self, key: str, asked: float | None) -> float | None:
        """Return the seconds of a load after which an older value is answered; None: never."""
        return asked or self.of(key).soft or self._soft_timeout or None

    def may_be_slow(self, key: str) -> bool:
        """Return True if a read of ``key`` that says nothing about it has a soft timeout."""
        return self.soft_timeout(key, None) is not None

    def spare(self, key: str, asked: float | None, tags: Collection[str] = ()) -> float:
        """Return the seconds for which a spare value of ``key`` is kept past the value; 0: none is.

        The rules alone decide for a key that a rule owns, as the worker has to bound it after a change. No
        value under tags has one, as no step of the worker reaches it when a tag is invalidated.
        """
        known = self.of(key)
        if tags or known.most < inf:
            return 0.0
        if known.owned or (asked is None and known.spare):
            return known.spare
        return self._stale_if_error if asked is None else asked

    def stale_if_error(self, key: str, asked: float | None, tags: Collection[str] = ()) -> float:
        """Return the most seconds since a spare value was current with which it may be answered; 0: none.

        What the caller asks for beats the rules, and these the setting, but nothing is kept for longer than
        the rules say of a key that one owns.
        """
        kept = self.spare(key, asked, tags)
        if asked is not None or self._stale_if_error:
            self._warn_of_no_spare(key, kept, asked, tags)
        return kept if asked is None else min(kept, asked)

    def _warn_of_no_spare(self, key: str, kept: float, asked: float | None, tags: Collection[str]) -> None:
        if kept or asked == 0 or not self.loaded or not self._rules.hash:
            return
        if tags:
            sentence = "stale_if_error has no effect on %r: what is stored under tags is never answered later"
        else:
            sentence = (
                "stale_if_error has no effect on %r: a rule owns it, so the worker has to bound what is kept "
                "after a change; write stale_if_error into its [refresh] or [reads] in unstale.toml"
            )
        self.warn_once(key, sentence, key)

    def ttl(self, key: str) -> float:
        """Return the TTL of ``key``: that of the first matching ``[ttl]`` pattern, else ``default_ttl``."""
        ttl = self.of(key).ttl
        return self._default_ttl if ttl is None else ttl

    def ttl_of_load(
        self,
        key: str,
        ttl: float | None,
        negative_ttl: float | None = None,
        *,
        negative: bool = False,
        tags: Collection[str] = (),
    ) -> float:
        """Return the TTL of a loaded value, before it is `shortened`.

        A value that is None (``negative``) lives at most ``negative_ttl`` seconds, or as the setting says.
        """
        if ttl is None:
            self._warn_of_default(key, tags)
            ttl = self.ttl(key)
        if negative:
            ttl = self.bounded(ttl, negative_ttl)
        return min(ttl, self._most(key, tags))

    def shortened(self, ttl: float) -> float:
        """Return ``ttl`` shortened at random, so that values do not expire together."""
        return ttl * (1 - self._jitter * random.random())

    def bounded(self, seconds: float, negative_ttl: float | None = None) -> float:
        """Return the TTL of a value that is None: at most ``seconds``, and at most the negative TTL."""
        most = self.negative_ttl if negative_ttl is None else negative_ttl
        return seconds if most is None else min(seconds, most)

    def ttl_of_set(self, key: str, ttl: float | None, tags: Collection[str] = ()) -> float:
        """Return the TTL of a value that the caller sets: ``ttl`` itself if given, without jitter."""
        if ttl is None:
            self._warn_of_default(key, tags)
            ttl = self.ttl(key)
        return min(ttl, self._most(key, tags))

    def _most(self, key: str, tags: Collection[str]) -> float:
        """Return the most seconds that a value is kept: few if its key or a tag has lost its owner."""
        return min([self.of(key).most, *(self.of(record(tag)).most for tag in tags)])

    def _cap_of_lost(self, key: str, former: str, tally: Tally) -> float:
        """Return the most seconds that a key which lost its owner is kept, and warn of it.

        Other processes may go on with the template that the rules had before, and no change invalidates its
        keys.
        """
        tally.former = former
        self.warn_once(
            key,
            "the rules no longer own %r: %r was removed from them, so no change invalidates it any "
            "more. It is kept for at most %g s; deploy the code that uses the new one, or add the "
            "template to the rules again until no agent uses it",
            shown(key),
            shown(former),
            self._detached_ttl,
        )
        return self._detached_ttl

    def _look_for_typo(self, key: str, tally: Tally) -> None:
        """Warn of a key that no rule owns and that was probably mistyped."""
        compared = tally.name in self._compared and tally.name != OTHERS
        if is_record(key) or compared or len(self._compared) >= MOST_COMPARED:
            return
        self._compared.append(tally.name)
        patterns = [pattern for pattern in self._rules.patterns if not is_record(pattern)]
        matched = self._rules.ttl_pattern(key)
        meant = near_miss(key, patterns, matched="" if matched is None else matched[0])
        if meant is None:
            return
        tally.meant = meant
        if matched is None:
            self.warn_once(key, "no rule owns %r, so no change invalidates it. Did you mean %r?", key, meant)
        else:
            self.warn_once(
                key,
                "no rule owns %r, so no change invalidates it; [ttl] %r keeps it for %g s. Did you mean %r?",
                key,
                matched[0],
                matched[1],
                meant,
            )

    def _warn_of_default(self, key: str, tags: Collection[str] = ()) -> None:
        if self.loaded and not self._rules.hash:
            self.warn_once(
                "",
                "Redis holds no rules, so no worker has ever led there: a value is kept in this process, "
                "and not for long. Start `unstale worker`, with the same REDIS_URL and UNSTALE_NAMESPACE",
            )
            return
        known = self.of(key)
        if known.ttl is None and self.loaded and not known.tally.meant and not self.owns(key, tags):
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

    def too_large(self, key: str, value: bytes) -> bool:
        """Return True, count and warn if a value is too large to be stored in Redis or in memory."""
        if len(value) <= self._max_value_bytes:
            return False
        self.too_large_values += 1
        self.warn_once(
            self.of(key).tally.name,
            "the value of %r is not stored, so each read loads it: it has %.1f MB; UNSTALE_MAX_VALUE_BYTES "
            "allows %.1f MB. Store less, or raise it",
            key,
            len(value) / 1e6,
            self._max_value_bytes / 1e6,
        )
        return True

    def unreadable(self, key: str, error: ValueError, *, sealed: bool = False) -> None:
        """Count and warn of a cached value that its reader cannot use: the read is a miss."""
        self.unreadable_values += 1
        name = self.of(key).tally.name
        if isinstance(error, OtherSchema):
            self.warn_once(
                name,
                "the cached value of %r was stored with a model of another schema, so it counts as missing. "
                "After a deploy this ends by itself; otherwise readers of this key use different models",
                key,
            )
        elif sealed:
            self.warn_once(
                name,
                "the cached value of %r is compressed or encrypted, and cannot be opened, so it counts as "
                "missing. Have all processes the same UNSTALE_VALUE_KEYS, and the extra crypto?",
                key,
            )
        else:
            self.warn_once(
                name,
                "the cached value of %r cannot be read (%s), so it counts as missing. Another release, or "
                "another program, stored it",
                key,
                type(error).__name__,
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
                "%r looks like one of a rule, but no row can have it, as the columns have other types: no "
                "change removes it, so it is cached like one that no rule owns",
                shown(key),
            )
        elif right != key:
            raise ValueError(
                f"cache key {shown(key)!r} is owned by a rule, but a change would remove it only as "
                f"{shown(right)!r}; use "
                "that spelling, which str() gives of the column's value"
            )
        return right is not None

    def _look_up(self, key: str) -> KeyRules:
        owner, former = self._rules.owner(key), self._rules.lost_owner(key, now=time.time())
        owned = owner is not None and former is None and self._can_change(key)
        if self._rules.kept:
            self.former_used |= self._rules.former_owners(key)
        if is_record(key):
            tally = UNCOUNTED  # a tag is not read by itself
        elif owner is not None and owned:
            tally = self.tallies.of_pattern(owner)
        else:
            tally = self.tallies.of_shape(key)
        most = inf if former is None else self._cap_of_lost(key, former, tally)
        if owner is None and former is None:
            self._look_for_typo(key, tally)
        ttl = self._rules.ttl_of(key)
        soft, spare = self._rules.reads_of(key)
        known = self._known[key] = KeyRules(
            owned=owned,
            ttl=ttl,
            stale=self._rules.refresh_of(key),
            near=min(self._default_ttl, codec.UNPUBLISHED_TTL) if ttl is None else ttl,
            most=most,
            asks_life=not owned,
            soft=soft,
            spare=spare,
            tally=tally,
        )
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return known

    def __repr__(self) -> str:
        return f"<KnownRules {len(self._rules.patterns)} patterns, hash {self.hash[:8] or 'none'}>"
