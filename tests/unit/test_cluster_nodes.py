"""Which node serves a slot, by the nodes' own words; and whether it served it undisturbed."""

import pytest

from unstale.errors import SettingError
from unstale.redis_tier.asking import NoPrimary, Place
from unstale.redis_tier.cluster_nodes import ClusterNodes, Topology, holding
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.url import RedisUrl, in_cluster
from unstale.settings import AgentSettings

URL = "redis://app:p%2Fw@a:7000,b,[::1]:7002?cluster=true"
A, B, C = ("a", 7000), ("b", 6379), ("::1", 7002)


def test_nodes_login_and_names() -> None:
    url = RedisUrl.parse(URL)
    assert url.nodes == (A, B, C)
    assert url.options == {"username": "app", "password": "p/w"}
    assert (url.database, url.sentinels, url.tls) == (0, (), False)
    assert url.place == "a:7000, b:6379, [::1]:7002"
    assert "p/w" not in repr(url)
    assert RedisUrl.parse("rediss://a/0?cluster=true").tls
    assert in_cluster(URL)
    assert not in_cluster("redis://a?cluster=false")
    settings = AgentSettings.from_env(env_file=None, redis_url=URL, namespace="shop")
    assert settings.names.stored("user:1") == "{shop:0}user:1"


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("redis://a?cluster=yes", "option 'cluster' must be true or false"),
        ("redis://a/3?cluster=true", "a cluster has no other database than 0"),
        ("redis://a,:x?cluster=true", "node 2 is not host:port"),
        ("redis+sentinel://a/main?cluster=true", "there is no option 'cluster'"),
    ],
)
def test_a_mistake_names_its_part(url: str, part: str) -> None:
    with pytest.raises(SettingError, match=part):
        Connections(url, timeout=1)


class Said(ClusterNodes):
    """Nodes of which each says what the test says; a text is its problem."""

    def __init__(self, said: dict[Place, Topology | str]) -> None:
        super().__init__(RedisUrl.parse(URL), "{unstale:0}", timeout=10)
        self.said = said
        self.asked: list[Place] = []

    async def _ask(self, host: str, port: int) -> Topology | str:
        self.asked.append((host, port))
        return self.said[host, port]


async def test_what_most_nodes_say_counts() -> None:
    """The node that was cut off still takes itself for the primary."""
    nodes = Said({A: Topology(A, (A, B)), B: Topology(B, (B, A, C)), C: Topology(B, (B, A, C))})
    assert await nodes.get_master_address() == B
    nodes.said = {A: "away", B: Topology(C, (C, B)), C: Topology(C, (C, B))}
    nodes.asked.clear()
    assert await nodes.get_master_address() == C
    assert nodes.asked == [B, A, C]  # what is known first, then what the URL names


async def test_a_slot_without_a_primary() -> None:
    with pytest.raises(NoPrimary, match=r"primary of slot 6555: none of them serves the slot now\."):
        await Said({A: Topology(None, (B,)), B: "away", C: "away"}).get_master_address()
    with pytest.raises(NoPrimary, match="6555: away"):
        await Said({A: "away", B: "away", C: "away"}).get_master_address()


NODE = "07c3 127.0.0.1:7000@17000,name myself,master - 0 0 {} connected {}"


@pytest.mark.parametrize(
    ("epoch", "slots", "expected"),
    [
        (4, "0-5460 6000-7000", "07c3:4"),
        (5, "6555", "07c3:5"),
        (5, "0-5460", None),
        (5, "6000-7000 [6555->-ab12]", None),
        (5, "6000-7000 [6556->-ab12]", "07c3:5"),
        (5, "0-5460 [6555-<-ab12]", None),
    ],
)
def test_a_slot_is_held_only_while_it_does_not_move(epoch: int, slots: str, expected: str | None) -> None:
    others = "ab12 127.0.0.1:7001@17001 master - 0 1 9 connected 6555\n"
    assert holding(others + NODE.format(epoch, slots), 6555) == expected


def test_a_replica_holds_nothing() -> None:
    assert holding("07c3 127.0.0.1:7000@17000 myself,slave ab12 0 0 4 connected", 6555) is None
    assert holding("", 6555) is None
