"""The cases of this folder, run with the objects of the Python client."""

import math
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from conformance.played import play
from unstale.errors import MessageError
from unstale.freshness.published_rules import KnownRules
from unstale.freshness.subscriptions import may_overlap
from unstale.freshness.tokens import Token, TokenWaits
from unstale.freshness.trust import Freshness
from unstale.near_cache.local_state import LocalState
from unstale.protocol import codec
from unstale.protocol.globs import matches
from unstale.protocol.messages import Invalidation, PublishedRules, UnknownVersion, Watermark, decode
from unstale.protocol.sealed import SEALED
from unstale.protocol.tags import tags_of, without_header
from unstale.redis_tier.shared_tier import SharedTier

HERE = Path(__file__).parent


def read(name: str) -> dict[str, Any]:
    return cast(dict[str, Any], orjson.loads((HERE / name).read_bytes()))


def following() -> list[Any]:
    """Return the cases of ``following.json``, complete: with settings, what Redis answers, and sequences."""
    data = read("following.json")
    found = []
    for case in data["cases"]:
        steps: list[Any] = [{"redis": data["redis"]}]
        for step in case["steps"]:
            steps += data["sequences"][step["use"]] if "use" in step else [step]
        whole = {**case, "settings": data["settings"] | case.get("settings", {}), "steps": steps}
        found.append(pytest.param(whole, id=case["name"]))
    assert len({case["name"] for case in data["cases"]}) == len(found), "two cases have one name"
    return found


@pytest.mark.parametrize("case", following())
def test_following(case: dict[str, Any]) -> None:
    play(case)


def test_globs() -> None:
    data = read("globs.json")
    for case in data["cases"]:
        assert matches(case["pattern"], case["key"]) is case["matches"], case
    for case in data["overlaps"]:
        assert may_overlap(case["one"], case["other"]) is case["may_overlap"], case
        assert may_overlap(case["other"], case["one"]) is case["may_overlap"], case


def test_messages() -> None:
    for case in read("messages.json")["cases"]:
        assert decoded(case) == {name: value for name, value in case.items() if name != "payload"}, case


def decoded(case: dict[str, Any]) -> dict[str, Any]:
    try:
        message = decode(case["payload"].encode())
    except MessageError:
        return {"is": "unreadable"}
    match message:
        case UnknownVersion():
            return {"is": "unknown version"}
        case Invalidation(epoch, number, prev, keys, patterns):
            return {
                "is": "invalidation",
                "epoch": epoch,
                "id": number,
                "prev": prev,
                "keys": list(keys),
                "patterns": list(patterns),
            }
        case Watermark(epoch, last, seen, lsn, rules, age_ms, flushed, database):
            included = [[xid, seen.includes(int(xid))] for xid, _ in case.get("seen", ())]
            return {
                "is": "watermark",
                "epoch": epoch,
                "last": last,
                "seen": included,
                "lsn": lsn,
                "rules": rules,
                "age_ms": age_ms,
                "flushed": flushed,
                "database": database,
            }


def test_contents() -> None:
    data = read("contents.json")
    for case in data["cases"]:
        known = KnownRules(cast(SharedTier, None), default_ttl=60.0, jitter=0.0)
        known.adopt(PublishedRules.decode(orjson.dumps(data["rules"])))
        content, key = case["content"].encode(), case["key"]
        told: dict[str, Any] = {"is": kind(content)}
        if told["is"] == "value":
            life = math.inf if case["life"] == "never" else case["life"]
            told["value"] = codec.decode(content, None)
            told["near"] = known.seconds_near(key, known.of(key), content, life, None, None)
        elif told["is"] == "tagged":
            told["tags"] = dict.fromkeys(tags_of(content))
            told["value"] = codec.decode(without_header(content), None)
        wanted = {name: case[name] for name in ("is", "value", "near") if name in case}
        if "tags" in case:
            wanted["tags"] = dict.fromkeys(case["tags"])  # the versions are compared by the scripts
        assert told == wanted, case


def kind(content: bytes) -> str:
    if not content:
        return "nothing"
    if not codec.is_value(content):
        return "lease" if codec.is_lease(content) else "tagged"
    return "sealed" if content.startswith(SEALED) else "value"


def test_keys() -> None:
    data = read("keys.json")
    rules = PublishedRules.decode(orjson.dumps(data["rules"]))
    for case in data["cases"]:
        key = case["key"]
        owned = rules.owns(key)
        told = {
            "key": key,
            "now": case["now"],
            "owned": owned,
            "right": rules.right_key(key) if owned else None,
            "ttl": rules.ttl_of(key),
            "lost": rules.lost_owner(key, now=case["now"]),
        }
        assert told == case


async def test_tokens() -> None:
    local = LocalState(max_entries=1, max_bytes=1_000, clock=lambda: 0.0)
    freshness = Freshness(local, clock=lambda: 0.0, max_silence=5.0, detached_ttl=30.0)
    for case in read("tokens.json")["cases"]:
        if not case["readable"]:
            with pytest.raises(ValueError, match="token"):
                Token.parse(case["token"])
            continue
        token = Token.parse(case["token"])
        watermark = decode(orjson.dumps(case["watermark"]))
        assert isinstance(watermark, Watermark)
        freshness.watermark = watermark
        assert TokenWaits(freshness)._done(token) is case["done"], case
