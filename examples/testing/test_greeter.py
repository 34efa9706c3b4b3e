"""Tests of the application without a server: `pytest examples/testing`."""

import greeter
import pytest
from greeter import greeting, profile, rename

from unstale.testing import InMemory


@pytest.fixture(autouse=True)
def people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeter, "PEOPLE", {42: "Ada"})


def test_a_profile_is_loaded_once(unstale_cache: InMemory) -> None:
    assert unstale_cache.run(profile(42)) == unstale_cache.run(profile(42))
    assert unstale_cache.loaded_once("user:42:profile")


def test_a_new_name_is_seen(unstale_cache: InMemory) -> None:
    assert unstale_cache.run(profile(42)) == greeter.Profile(name="Ada")
    unstale_cache.run(rename(42, "Grace"))
    assert unstale_cache.invalidated("user:42:*")
    assert unstale_cache.run(profile(42)) == greeter.Profile(name="Grace")


def test_a_change_of_the_database_is_followed(unstale_cache: InMemory) -> None:
    assert greeting(42) == "Hello Ada"
    greeter.PEOPLE[42] = "Grace"
    assert greeting(42) == "Hello Ada"
    unstale_cache.change("user:42:greeting")
    assert greeting(42) == "Hello Grace"


def test_a_greeting_lives_a_minute(unstale_cache: InMemory) -> None:
    assert greeting(42) == "Hello Ada"
    unstale_cache.clock.advance(61)
    greeting(42)
    assert unstale_cache.loads("user:42:greeting") == 2


def test_the_loader_itself(unstale_uncached: InMemory) -> None:
    assert greeting(42) == "Hello Ada"
    greeter.PEOPLE[42] = "Grace"
    assert greeting(42) == "Hello Grace"
