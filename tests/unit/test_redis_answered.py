"""What is said of a Redis that answers with an error: never that it does not answer."""

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError

from unstale.redis_tier.refusal import answered


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            "WRONGPASS invalid username-password pair",
            " refused the user or password of REDIS_URL; correct it",
        ),
        ("NOPERM User few has no permissions", ": the user of REDIS_URL lacks a right (User few has"),
        ("NOAUTH Authentication required.", ": this Redis requires a password"),
        ("ERR DB index is out of range", ": the database number of REDIS_URL"),
        ("LOADING Redis is loading the dataset in memory", " is loading its data"),
        (
            "READONLY You can't write against a read only replica.",
            " is a read-only replica; name the primary",
        ),
        ("MASTERDOWN Link with MASTER is down", " is a replica without its primary"),
        ("MOVED 3999 127.0.0.1:6381", " is a node of a cluster, and another node has the keys"),
        ("CLUSTERDOWN The cluster is down", " is a node of a cluster that is down"),
        ("OOM command not allowed when used memory > 'maxmemory'.", " is out of memory"),
        ("ERR max number of clients reached", " has no connection left"),
    ],
)
def test_a_server_that_refuses_has_answered(reply: str, said: str) -> None:
    try:
        raise RedisConnectionError("the connection broke") from BaseParser.parse_error(reply)
    except RedisConnectionError as error:
        sentence = answered(error, "redis.example:6379")
    assert sentence is not None
    assert sentence.startswith(f"Redis at redis.example:6379{said}")


def test_a_server_that_is_away_has_not() -> None:
    assert answered(RedisConnectionError("Connection refused"), "redis.example:6379") is None
