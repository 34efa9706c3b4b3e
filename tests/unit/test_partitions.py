"""Which partition has a key, and under which name; on one server the names are the users' own."""

from collections import Counter
from itertools import pairwise

import pytest
from redis.crc import key_slot

from unstale.protocol.names import Names
from unstale.protocol.partitions import SLOTS, Partitions, slot_of
from unstale.protocol.tags import record

KEYS = (
    "user:42:profile",
    "{user:42}:profile",
    "a{}b",
    "a{b",
    "a}b{c}",
    "ключ",
    ":state",
    record("user:42:memories"),
    record("{user:42}"),
)


@pytest.mark.parametrize("key", KEYS)
def test_a_single_server_stores_each_key_under_its_own_name(key: str) -> None:
    names = Names("unstale", 3)
    assert names.stored(key) == key == names.key_of(key)
    assert names.prefix == ""
    assert (names.own, names.reserved) == ("{unstale:0}", "{unstale:0}")
    assert (names.state, names.claim) == ("{unstale:0}:state", "unstale:namespace")
    assert names.channel == "{unstale:0}:invalidations:3"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("count", [1, 16])
def test_a_cluster_stores_a_key_in_the_slot_of_its_partition(count: int, key: str) -> None:
    names = Partitions("unstale", count).of(key)
    stored = names.stored(key)
    assert names.key_of(stored) == key
    assert key_slot(stored.encode()) == key_slot(names.state.encode()) == slot_of(names.tag)
    for own in (names.channel, names.claim, names.stale(stored), names.refresh, names.lock(key)):
        assert key_slot(own.encode()) == slot_of(names.tag)
        assert own.startswith(names.own)
    assert stored.startswith(names.own) is key.startswith(names.reserved)  # ':state' would be the state


def test_the_names_in_a_cluster_of_one_partition() -> None:
    (names,) = Partitions("shop", 1).names
    assert names == Names("shop", cluster=True)
    table = {
        names.state: "{shop:0}:state",
        names.channel: "{shop:0}:invalidations:sharded",
        names.stored("user:42:profile"): "{shop:0}user:42:profile",
        names.stored("user:*"): "{shop:0}user:*",
        names.stored(record("user:42:memories")): "unstale:tag:{shop:0}user:42:memories",
    }
    assert list(table) == list(table.values())


def test_partitions_are_apart_and_spread_over_all_slots() -> None:
    for count in (1, 3, 16, 100):
        slots = [slot_of(names.tag) for names in Partitions("unstale", count).names]
        assert [slot * count // SLOTS for slot in slots] == list(range(count))  # one in each share of slots
        assert all(first < second for first, second in pairwise(slots))


def test_keys_spread_over_the_partitions_and_a_hash_tag_keeps_them_together() -> None:
    partitions = Partitions("unstale", 16)
    found = Counter(partitions.of(f"user:{number}:profile").partition for number in range(16_000))
    assert len(found) == 16
    assert max(found.values()) < 1_300
    together = {partitions.of(f"{{user:42}}:{part}").partition for part in range(100)}
    assert together == {partitions.of("{user:42}").partition}


def test_a_number_of_partitions_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="0 partitions: expected 1 to 1024"):
        Partitions("unstale", 0)
