"""The spelling of keys: what captures write, what is another spelling of it, and what no row can have."""

from __future__ import annotations

import time
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unstale.errors import MessageError
from unstale.protocol.key_forms import KeyForm, right_key, usable
from unstale.protocol.messages import PublishedRules

USER = KeyForm("user:*:*", ("user:", ":", ""), ("uuid", ""))
NUMBER = KeyForm("n:*:x", ("n:", ":x"), ("int",))
FLAG = KeyForm("f:*", ("f:", ""), ("bool",))


@given(st.uuids(), st.text())
def test_a_uuid_in_any_spelling(value: UUID, rest: str) -> None:
    right = f"user:{value}:{rest}"
    assert USER.right(right) == right
    for text in (str(value).upper(), value.hex, value.urn, f"{{{value}}}", f" {value} "):
        assert USER.right(f"user:{text}:{rest}") == right


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_number_in_any_spelling(value: int) -> None:
    right = f"n:{value}:x"
    assert NUMBER.right(right) == right
    sign = "-" if value < 0 else "+"
    for text in (f"{sign}{abs(value)}", f"{sign}00{abs(value)}", f"{value}.0", f" {value}", f"{value:_}"):
        assert NUMBER.right(f"n:{text}:x") == right
    assert NUMBER.right("n:-0:x") == "n:0:x"


@pytest.mark.parametrize("text", ["", "abc", "1e3", "1,000", "0x7", "7.5", "--7", "٣", "7:x:x"])
def test_what_is_no_number(text: str) -> None:
    assert NUMBER.right(f"n:{text}:x") is None


def test_a_key_may_fit_any_of_the_forms_of_its_patterns() -> None:
    any_text = KeyForm("n:*:x", ("n:", ":x"), ("",))
    assert right_key([NUMBER, FLAG], "f:t") == "f:True"
    assert usable([NUMBER, any_text, FLAG]) == [FLAG]  # one pattern, and some of its keys hold any text
    rules = PublishedRules(patterns=("n:*:x", "n:007:*"), forms=(NUMBER,))
    assert rules.right_key("n:007:x") == "n:007:x"  # the other pattern owns it as it is
    assert rules.right_key("n:08:x") == "n:8:x"


def test_forms_travel_and_older_agents_ignore_them() -> None:
    rules = PublishedRules("h", ("n:*:x", "f:*"), forms=(FLAG, NUMBER))
    assert PublishedRules.decode(rules.encode()) == rules
    unknown = rules.encode().replace(b'"bool"', b'"inet"')
    assert PublishedRules.decode(unknown).forms == (NUMBER,)  # a newer worker's kind: any text
    for broken in (
        b'"forms":1',
        b'"forms":[["f:*",["f:"],["bool"]]]',
        b'"forms":[["f:*",["f:",1],["bool"]]]',
    ):
        with pytest.raises(MessageError):
            PublishedRules.decode(b'{"v":1,"hash":"h","patterns":[],"ttl":[],' + broken + b"}")
    assert b"forms" not in PublishedRules("h", ("n:*:x",)).encode()


def test_a_hostile_key_takes_no_time() -> None:
    form = KeyForm("a:*", ("a:", ":", ":", ":", ""), ("", "int", "uuid", ""))
    assert usable([KeyForm("a:*", ("a:", ":", ":", ""), ("", "", ""))]) == []
    began = time.process_time()
    for key in ("a:" + "1:" * 511, "a:" + ":" * 1022, "a:" + "-1_" * 340, "a:" + " " * 1022):
        form.right(key)
    assert time.process_time() - began < 5
