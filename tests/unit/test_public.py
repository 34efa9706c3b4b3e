"""The public names of `import unstale`, and the modules that importing it loads."""

import subprocess
import sys

import unstale

MOST_MODULES = 60
"""Of the standard library, too; 46 today. Each costs some 0.1 ms, and the promise is 50 ms for all."""
HEAVY = ("redis", "pydantic", "asyncio", "orjson", "aiohttp", "asyncpg", "supabase", "openai")


def test_the_public_names_are_these() -> None:
    assert unstale.__all__ == sorted(unstale.__all__)
    assert set(unstale.__all__) == {
        "AgentSettings",
        "Cache",
        "CacheClosed",
        "CacheNotStarted",
        "ConfigurationError",
        "ConnectionPool",
        "FrozenDict",
        "Invalidated",
        "InvalidationReason",
        "Load",
        "LoadCancelled",
        "LoadCycle",
        "Lock",
        "LockLost",
        "LockTimeout",
        "PoolClosed",
        "PoolSettings",
        "RedisCache",
        "RedisUnavailable",
        "Refresh",
        "Reset",
        "SettingError",
        "StaleAnswer",
        "ToolError",
        "Tools",
        "UnstaleError",
        "WaitTimeout",
        "escape_glob",
        "redis_cache",
        "stale_answers",
    }
    for name in unstale.__all__:
        if name != "redis_cache":
            assert getattr(unstale, name).__name__ == name
    assert type(unstale.redis_cache) is unstale.RedisCache
    assert set(unstale.__all__) <= set(dir(unstale))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(unstale, "nothing")


def test_importing_the_package_loads_no_client() -> None:
    code = f"import unstale, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_importing_the_package_loads_few_modules() -> None:
    code = "import sys; before = set(sys.modules); import unstale; print(len(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= MOST_MODULES
