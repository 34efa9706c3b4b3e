"""Settings: who reads which, invalid values, and that only `from_env` reads the environment."""

from pathlib import Path
from typing import Any

import pytest

import unstale.sync
from unstale import AgentSettings, Cache, ConnectionPool, PoolSettings, RedisCache, SettingError
from unstale.settings import WorkerSettings
from unstale.settings.variables import unknown_variables, variables


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and none of the variables in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in (*variables().values(), "SUPABASE_DB_URL", "SUPABASE_SERVICE_ROLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_an_argument_beats_the_environment_which_beats_the_file(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert AgentSettings.from_env().near_max_entries == 10_000
    (elsewhere / ".env").write_text("UNSTALE_NEAR_MAX_ENTRIES=1\nREDIS_URL=redis://file/0\n")
    assert AgentSettings.from_env().near_max_entries == 1
    assert AgentSettings.from_env(env_file=None).near_max_entries == 10_000
    monkeypatch.setenv("UNSTALE_NEAR_MAX_ENTRIES", "2")
    assert AgentSettings.from_env().near_max_entries == 2
    assert AgentSettings.from_env(near_max_entries=3).near_max_entries == 3
    assert AgentSettings.from_env().redis_url.get_secret_value() == "redis://file/0"


def test_a_constructor_reads_neither(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / ".env").write_text("OPENAI_API_KEY=secret\n")
    monkeypatch.setenv("UNSTALE_MAX_SILENCE", "9")
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere/0")
    assert AgentSettings() == AgentSettings(max_silence=5.0)
    assert AgentSettings().redis_url.get_secret_value() == "redis://localhost:6379/0"
    assert PoolSettings().openai_api_key is None
    assert WorkerSettings().max_silence == 5.0


def test_of_several_variables_the_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_DB_URL", "postgresql://second")
    for settings in (WorkerSettings.from_env(), PoolSettings.from_env()):
        assert settings.database_url is not None
        assert settings.database_url.get_secret_value() == "postgresql://second"
    monkeypatch.setenv("database_url", "postgresql://first")  # capitals do not matter
    found = WorkerSettings.from_env().database_url
    assert found is not None
    assert found.get_secret_value() == "postgresql://first"


@pytest.mark.parametrize("make", [Cache.from_env, RedisCache.from_env, AgentSettings, AgentSettings.from_env])
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "near_max_entrys",
            "AgentSettings has no setting 'near_max_entrys'; did you mean 'near_max_entries'?",
        ),
        (
            "near_max",
            "AgentSettings has no setting 'near_max'; did you mean 'near_max_entries' or 'near_max_bytes'?",
        ),
        ("qqq", "AgentSettings has no setting 'qqq'; docs/settings.md lists them all"),
        (
            "http_port",
            "AgentSettings has no setting 'http_port': it is a setting of the worker; "
            "set UNSTALE_HTTP_PORT for `unstale worker`",
        ),
        (
            "pool_dns_ttl",
            "AgentSettings has no setting 'pool_dns_ttl': it is a setting of connection pools; "
            "give it to ConnectionPool.from_env(pool_dns_ttl=...), or set UNSTALE_POOL_DNS_TTL",
        ),
    ],
)
def test_an_unknown_argument_is_a_type_error_that_says_what_was_meant(
    make: type[AgentSettings], argument: str, message: str
) -> None:
    with pytest.raises(TypeError) as raised:
        make(**{argument: 1})
    assert str(raised.value) == message


@pytest.mark.parametrize("settings", ["redis://secret@localhost", None, {"redis_url": "x"}, PoolSettings()])
def test_a_cache_of_something_else_says_what_to_write(settings: object) -> None:
    with pytest.raises(
        TypeError, match=r"Cache needs AgentSettings, not a \w+: write Cache\.from_env"
    ) as raised:
        Cache(settings)  # type: ignore[arg-type]  # the mistake that is tested
    assert "secret" not in str(raised.value)


def test_an_empty_variable_is_unset(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / ".env").write_text("UNSTALE_HTTP_TOKEN=\nUNSTALE_LEADER_TTL=3\n")
    for name in (*variables().values(), "SUPABASE_DB_URL"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "second")
    settings = WorkerSettings.from_env()
    assert settings.leader_ttl == 3
    assert settings.supabase_key is not None
    assert settings == WorkerSettings(leader_ttl=3, supabase_key="second")


def test_a_pool_refuses_settings_of_a_cache() -> None:
    with pytest.raises(TypeError, match=r"it is a setting of agents; give it to Cache\.from_env\(near_max_"):
        ConnectionPool.from_env(near_max_bytes=1)


def test_a_cache_refuses_settings_of_an_embedded_worker_that_it_does_not_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(TypeError, match="set DATABASE_URL for `unstale worker`, or add embedded_worker=True"):
        Cache.from_env(database_url="postgresql://x/y")
    monkeypatch.setenv("DATABASE_URL", "postgresql://x/y")  # of a worker or pool beside it: no mistake
    assert not AgentSettings.from_env().embedded_worker
    assert AgentSettings.from_env(embedded_worker=True, poll_max=0.1).poll_max == 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"max_silence": "abc"},
            "UNSTALE_MAX_SILENCE is 'abc'; expected seconds or a text such as '1h30m', above 0 and at most "
            "86,400. Correct it, or remove it: the default is 5.0",
        ),
        ({"max_silence": 0}, "UNSTALE_MAX_SILENCE is 0; expected seconds or a text such as '1h30m', above 0"),
        ({"negative_ttl": -1}, "UNSTALE_NEGATIVE_TTL is -1; expected seconds"),
        ({"compress_above": "1"}, "UNSTALE_COMPRESS_ABOVE is '1'; expected a whole number, at least 64."),
        ({"retention": 1}, "expected seconds or a text such as '1h30m', at least 60 and at most 2,592,000"),
        ({"source": "oubox"}, "UNSTALE_SOURCE is 'oubox'; expected one of 'auto', 'outbox', 'supabase'"),
        ({"redis_enabled": "perhaps"}, "REDIS_ENABLED is 'perhaps'; expected true or false"),
        ({"max_silence": 0.9, "leader_ttl": 0.5}, "at least twice watermark_interval (0.5 s)"),
        ({"leader_ttl": 5}, "leader_ttl is 5.0 s: it must be below max_silence (5.0 s)"),
        ({"http_host": "0.0.0.0"}, "beyond loopback UNSTALE_HTTP_TOKEN is required"),
        ({"poll_min": 0.5}, "poll_min (0.5 s) is above poll_max (0.25 s)"),
        ({"database_timeout": "soon", "redis_enabled": "perhaps"}, "UNSTALE_DATABASE_TIMEOUT is 'soon'"),
        ({"namespace": "a b"}, "namespace"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_its_variable(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingError) as raised:
        WorkerSettings(**arguments)
    assert message in str(raised.value)


def test_no_error_and_no_repr_shows_a_secret() -> None:
    settings = WorkerSettings(http_token="hunter2", database_url="postgresql://x:hunter2@y/z")
    assert "hunter2" not in repr(settings)
    with pytest.raises(SettingError) as raised:
        WorkerSettings(http_token=["hunter2"])
    assert str(raised.value) == "UNSTALE_HTTP_TOKEN cannot be used; expected a text. Correct it, or remove it"


def test_every_setting_says_what_it_expects() -> None:
    """Whatever the setting is: its variable, the remedy, and no wording of the library's."""
    for cls in (AgentSettings, PoolSettings, WorkerSettings):
        for field in cls.model_fields:
            with pytest.raises(SettingError) as raised:
                cls(**{field: object()})
            assert cls.variables(field)[0] in str(raised.value)
            assert "; expected " in str(raised.value), field
            assert "Input" not in str(raised.value)


def test_only_variables_of_no_class_are_unknown(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in variables().values():
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("UNSTALE_NEAR_MAX_ENTRYS", "1")
    (elsewhere / ".env").write_text("UNSTALE_COLOUR=blue\n")
    assert unknown_variables() == {
        "UNSTALE_COLOUR": None,
        "UNSTALE_NEAR_MAX_ENTRYS": "UNSTALE_NEAR_MAX_ENTRIES",
    }


def test_an_agent_warns_once_of_a_variable_that_is_no_setting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("UNSTALE_MAX_SILENS", "2")
    for _ in range(2):
        assert Cache.from_env().settings.max_silence == 5.0
    (said,) = [record.message for record in caplog.records if "UNSTALE_MAX_SILENS" in record.message]
    assert said == (
        "UNSTALE_MAX_SILENS is not a setting and has no effect; did you mean UNSTALE_MAX_SILENCE?"
    )


def test_a_misspelt_option_of_the_decorator_names_the_one_that_was_meant() -> None:
    for cache in (Cache(AgentSettings()), unstale.sync.Cache(AgentSettings())):
        misspelt: Any = cache.cached
        with pytest.raises(TypeError, match=r"cached has no option 'tll'; did you mean 'ttl'\?"):
            misspelt("user:{user_id}", tll=3)
        with pytest.raises(TypeError, match="has no option 'colour'; it has tags, ttl"):
            misspelt("user:{user_id}", colour=3)
