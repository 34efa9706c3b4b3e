"""Redis URLs: the accepted forms, and the errors for invalid ones."""

import pytest

from unstale.errors import SettingError
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.url import RedisUrl


def test_sentinels_service_logins_and_database() -> None:
    url = RedisUrl.parse(
        "redis+sentinel://app:p%2Fw@a:1,[::1]:2,c/my.main_1/3?sentinel_username=s&sentinel_password=s%26t"
    )
    assert url.sentinels == (("a", 1), ("::1", 2), ("c", 26379))
    assert url.service == "my.main_1"
    assert url.options == {"username": "app", "password": "p/w", "db": 3}
    assert url.sentinel_options == {"username": "s", "password": "s&t"}
    assert not url.tls
    assert url.place == "my.main_1 (sentinels a:1, [::1]:2, c:26379)"
    assert "p/w" not in repr(url)
    assert "s&t" not in repr(url)


def test_the_password_of_the_server_is_not_the_sentinels() -> None:
    assert RedisUrl.parse("redis+sentinel://:secret@a/main").sentinel_options == {}


def test_tls_is_for_servers_and_sentinels() -> None:
    url = RedisUrl.parse("rediss+sentinel://a/main?ssl_cert_reqs=none")
    assert url.tls
    assert url.options == {"ssl_cert_reqs": "none"}
    assert url.sentinel_options == {"ssl_cert_reqs": "none"}
    assert repr(Connections("rediss+sentinel://a/main", timeout=1).new()).startswith(
        "<unstale.redis_tier.connections.PrimarySSL"
    )


def test_time_limits_are_ours_whatever_the_url_says() -> None:
    given = "socket_timeout=9&retry_on_timeout=true&max_connections=3&protocol=2"
    assert RedisUrl.parse(f"redis://h:1/2?{given}").options == {"host": "h", "port": 1, "db": 2}
    assert RedisUrl.parse(f"redis+sentinel://h/m/2?{given}").options == {"db": 2}


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("http://host", "it begins with http://"),
        ("hunter2://host", "it is not a URL"),
        ("redis://host:port/0", "host or port cannot be read"),
        ("redis://host:99999/0", "host or port cannot be read"),
        ("redis://host/mymaster", "the database, behind the last slash, is not a number"),
        ("redis://host?decode_responses=True", "'decode_responses' changes the form of Redis' replies"),
        ("redis://host?protocol=3", "'protocol' changes the form of Redis' replies"),
        ("redis://host?encoding=latin-1", "'encoding' changes the form of Redis' replies"),
        ("redis://host?ssl_cert_reqs=none", "there is no option 'ssl_cert_reqs' without TLS"),
        ("redis://host?password=a&hunter2=b", "there is no option number 2"),
        ("redis://host/0?no_such=1", "there is no option 'no_such'"),
        ("rediss://host/0?ssl_cert_reqs=perhaps", "'ssl_cert_reqs' must be one of none, optional"),
        ("redis://host/0?db=x", "Invalid value for 'db'"),
        ("redis+sentinel://host", "the Sentinels' name for the primary, is missing from the path"),
        ("redis+sentinel:///main", "sentinel 1 is not host:port"),
        ("redis+sentinel://a,,c/main", "sentinel 2 is not host:port"),
        ("redis+sentinel://a:1,b:x/main", "sentinel 2 is not host:port"),
        ("redis+sentinel://a/main/x", "the database, behind the last slash, is not a number"),
        ("redis+sentinel://a/main?ssl_cert_reqs=none", "there is no option 'ssl_cert_reqs'"),
    ],
)
def test_a_mistake_names_its_part_and_what_was_expected(url: str, part: str) -> None:
    with pytest.raises(SettingError) as refused:
        Connections(url, timeout=1)
    assert str(refused.value).startswith("REDIS_URL: ")
    assert part in str(refused.value)
    assert "redis+sentinel://host:port,host:port/service/db" in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hun/ter2@host:1/0",
        "redis://user:12/hunter2@host:1/0",
        "redis://user:hun#ter2@host:1/0",
        "redis+sentinel://user:12/hunter2@host:1/main/0",
        "redis+sentinel://user:hun/ter2@host:1/main/0",
        "redis+sentinel://user:hun,ter2@host:x/main/0",
    ],
)
def test_a_password_that_was_not_encoded_is_in_no_message(url: str) -> None:
    with pytest.raises(SettingError) as refused:
        Connections(url, timeout=1)
    assert "hun" not in str(refused.value)
    assert "ter2" not in str(refused.value)
