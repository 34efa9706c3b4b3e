"""Values on their way to Redis: compressed, encrypted, opened again, or not opened at all."""

import asyncio
import base64
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unstale.errors import SettingError
from unstale.protocol import codec, sealed
from unstale.protocol.value_keys import parse_keys, parse_scopes
from unstale.sealing import key_source
from unstale.sealing.key_source import KeyUnavailable
from unstale.sealing.sealer import Sealer, sealer_of
from unstale.settings import AgentSettings, WorkerSettings

KEY = "user:42:profile"


def new_key(number: int = 0) -> str:
    return base64.b64encode(bytes((number,)) * 32).decode()


A, B = f"a:{new_key(1)}", f"b:{new_key(2)}"


def sealer(**settings: Any) -> Sealer:
    made = sealer_of(AgentSettings(**settings))
    assert made is not None
    return made


ENCRYPTING = sealer(value_keys=A, compress_above=100)
COMPRESSING = sealer(compress_above=100)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=400), st.sampled_from([b"", b" ", codec.lease_suffix(7)]))
def test_what_is_sealed_is_opened(text: bytes, suffix: bytes) -> None:
    data = b'"' + text + b'"' + suffix
    for each in (ENCRYPTING, COMPRESSING):
        content = each.seal(KEY, data)
        assert content is not None
        assert codec.is_value(content)
        assert codec.hides_its_life(content) is codec.hides_its_life(data)
        assert (each.open(KEY, content) if content.startswith(sealed.SEALED) else content) == data


def test_a_large_value_is_compressed_and_a_small_one_is_not() -> None:
    large = b'"' + b"memory " * 1_000 + b'"'
    assert len(COMPRESSING.seal(KEY, large) or b"") < 100
    assert COMPRESSING.seal(KEY, b'"small"') == b'"small"'
    assert len(ENCRYPTING.seal(KEY, large) or b"") < 140
    noise = b'"' + base64.b64encode(os.urandom(3_000)) + b'"'
    assert COMPRESSING.open(KEY, COMPRESSING.seal(KEY, noise) or b"") == noise


def test_a_value_is_not_read_under_another_key_or_in_another_namespace() -> None:
    content = ENCRYPTING.seal(KEY, b'"Ada"')
    assert content is not None
    assert b"Ada" not in content
    assert ENCRYPTING.open("user:43:profile", content) is None
    assert sealer(value_keys=A, namespace="other").open(KEY, content) is None
    assert COMPRESSING.open(KEY, content) is None
    for at in range(len(content)):
        changed = content[:at] + bytes((content[at] ^ 1,)) + content[at + 1 :]
        assert not changed.startswith(sealed.SEALED) or ENCRYPTING.open(KEY, changed) is None
    for end in range(1, len(content)):
        assert ENCRYPTING.open(KEY, content[:end]) is None


def test_keys_rotate() -> None:
    before, during, after = sealer(value_keys=A), sealer(value_keys=f"{B}, {A}"), sealer(value_keys=B)
    old, new = before.seal(KEY, b"1"), during.seal(KEY, b"1")
    assert old is not None
    assert new is not None
    assert (sealed.key_id(old), sealed.key_id(new)) == ("a", "b")
    assert during.open(KEY, old) == during.open(KEY, new) == after.open(KEY, new) == b"1"
    assert after.open(KEY, old) is before.open(KEY, new) is None


def test_a_frame_that_unpacks_to_gigabytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = COMPRESSING.seal(KEY, b"0" * 100_000_000)
    assert bomb is not None
    assert len(bomb) < 100_000
    assert COMPRESSING.open(KEY, bomb) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("s3cretpart", "entry 1 must be ID:BASE64"),
        (f"{A}, b s3cretpart", "entry 2 must be ID:BASE64"),
        (f"{A}, b:s3cretpart!", "entry 2 is no base64"),
        ("a:c2VjcmV0cGFydA==", "entry 1 has 10 bytes and must have 32"),
        (f"{A},{A}", "entry 2 has an ID that stands there twice"),
        (" ", "there is no key"),
    ],
)
def test_a_wrong_key_is_named_by_its_place_and_not_shown(text: str, problem: str) -> None:
    for cls in (AgentSettings, WorkerSettings):
        with pytest.raises(SettingError, match=problem) as refused:
            cls(value_keys=text)
        assert str(refused.value).startswith("UNSTALE_VALUE_KEYS: ")
        assert not any(part in str(refused.value) for part in ("s3cret", "c2Vjcm", new_key(1)))


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingError, match="are both set"):
        AgentSettings(value_keys=A, value_key_function="os:getcwd")
    with pytest.raises(SettingError, match="needs UNSTALE_VALUE_KEY_FUNCTION"):
        AgentSettings(value_key_users="user:{user}:*")
    with pytest.raises(SettingError, match=r"must have .user. once"):
        AgentSettings(value_key_function="os:getcwd", value_key_users="user:*")
    with pytest.raises(SettingError, match="cannot be imported"):
        sealer(value_key_function="no_such_module:keys")
    assert sealer_of(AgentSettings()) is None
    assert new_key(1) not in repr(AgentSettings(value_keys=A)) + repr(ENCRYPTING)


def test_templates_say_whose_a_key_is() -> None:
    (profile, search) = parse_scopes("user:{user}:*, search:{user}")
    assert [
        found and found["user"]
        for found in map(profile.fullmatch, ["user:42:profile", "user:a b:x:y", "user::x", "session:1"])
    ] == ["42", "a b", None, None]
    found = search.fullmatch("search:a:b")
    assert found is not None
    assert found["user"] == "a:b"
    assert parse_keys(A)["a"] == b"\x01" * 32


KEYS: dict[str | None, str | None] = {}
CALLS: list[str | None] = []


async def keys_of(user: str | None) -> str | None:
    """Stand in for a KMS, or a table of keys."""
    CALLS.append(user)
    if KEYS.get(user) == "down":
        raise OSError(f"the KMS is away, and it said {new_key(3)}")
    return KEYS.get(user)


async def test_each_user_has_own_keys_and_a_forgotten_one_erases(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(key_source, "FAILED_SECONDS", 0.0)
    KEYS.clear()
    CALLS.clear()
    KEYS.update({None: A, "42": f"x:{new_key(5)}", "43": "down"})
    each = sealer(value_key_function=f"{__name__}:keys_of", value_key_users="user:{user}:*")
    first, *others = await asyncio.gather(*(each.sealed(KEY, b'"Ada"') for _ in range(5)))
    assert CALLS == ["42"], "asked once"
    assert first is not None
    assert None not in others
    assert sealed.key_id(first) == "x"
    shared = await each.sealed("session:1", b"1")
    assert shared is not None
    assert sealed.key_id(shared) == "a"
    assert await each.key_ids() == ("a",)

    assert await each.sealed("user:43:profile", b"1") is None, "nothing is stored without a key"
    with pytest.raises(KeyUnavailable):
        each.open("user:43:profile", first)
    KEYS["43"] = f"y:{new_key(6)}"
    assert await each.sealed("user:43:profile", b"1") is not None
    assert caplog.text.count("UNSTALE_VALUE_KEY_FUNCTION failed (OSError)") == 1
    assert new_key(3) not in caplog.text

    KEYS["42"] = "down"
    monkeypatch.setattr(key_source, "KEPT_SECONDS", 0.0)
    each = sealer(value_key_function=f"{__name__}:keys_of", value_key_users="user:{user}:*")
    KEYS["42"] = f"x:{new_key(5)}"
    assert await each.opened(KEY, first) == b'"Ada"'
    KEYS["42"] = "down"
    assert await each.opened(KEY, first) == b'"Ada"', "a key that was known serves while the KMS is away"
    KEYS["42"] = None
    assert await each.opened(KEY, first) is None, "forgotten"
    assert await each.sealed(KEY, b"1") is None
