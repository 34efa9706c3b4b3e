"""The one tree of errors; each says what to do about it.

::

    UnstaleError
    ├── ConfigurationError            wrong usage or configuration (exit code 2)
    │   ├── RuleError                 a mistake in unstale.toml, with file, line and field
    │   ├── RuleErrors                all the mistakes of one file
    │   ├── SettingError              a mistake in an environment variable or argument
    │   ├── MigrationMissing          the database lacks what the rules need
    │   └── MissingExtra              an optional part whose packages are not installed
    ├── UnsupportedServer             a Redis or Postgres that cannot carry the protocol
    ├── Unavailable                   a server that does not answer; retried
    │   ├── RedisUnavailable
    │   │   └── RedisRefused          also a ConfigurationError: it refuses what REDIS_URL says
    │   └── DatabaseUnavailable
    │       └── DatabaseRefused       also a ConfigurationError: it refuses what DATABASE_URL says
    ├── MessageError                  a message or stored state that cannot be read
    ├── LeadershipLost                another worker leads, or the lease ran out
    ├── PositionMoved                 an applier script was refused: read the state again
    ├── WaitTimeout                   wait_for(token) ran out of time
    ├── LoadCancelled                 a loader was cancelled from inside
    ├── LoadCycle                     a loader waits for its own result
    ├── CacheClosed                   a cache used after it was closed
    ├── CacheNotStarted               a cache used before it was started
    ├── PoolClosed                    a connection pool used after it was closed
    ├── LockTimeout                   another instance held the lock for too long
    ├── LockLost                      the lock's lease ran out while it was held
    ├── ToolError                     a tool call that a model can correct
    └── EmbeddedServerError           a demo or test server that did not start
"""

from collections.abc import Sequence


class UnstaleError(Exception):
    """Something in unstale failed; the message ends with the remedy."""


class ConfigurationError(UnstaleError):
    """The configuration cannot be used; correct it and start again."""


class RuleError(ConfigurationError):
    """A mistake in ``unstale.toml``.

    Attributes:
        file: The file as the user named it.
        line: 1-based line of the mistake; 0 when the whole file is meant.
        field: The field, as a path: ``watch[2].keys[0]``.
        value: The offending value, shortened.
        remedy: What was expected, as a sentence.
    """

    def __init__(self, *, file: str, line: int, field: str, value: object, problem: str, remedy: str) -> None:
        self.file, self.line, self.field, self.problem, self.remedy = file, line, field, problem, remedy
        text = repr(value)
        self.value = text if len(text) <= 120 else text[:117] + "..."
        where = f"{file}:{line}: {field} = {self.value}" if line else file
        super().__init__(f"{where}: {problem}. {remedy}")


class RuleErrors(ConfigurationError):
    """Every mistake of one rules file, so that all can be corrected at once."""

    def __init__(self, errors: Sequence[RuleError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))


class SettingError(ConfigurationError):
    """A setting has a value it cannot have; the message names variable, value and bound."""


class MigrationMissing(ConfigurationError):
    """The database lacks captures that the rules need; run ``unstale migration`` and push the file.

    Attributes:
        lacking: What it lacks, without the remedy; empty if it lacks unstale's own schema.
    """

    def __init__(self, message: str, *, lacking: str = "") -> None:
        self.lacking = lacking
        super().__init__(message)


class MissingExtra(ConfigurationError, ImportError):
    """An optional part of unstale needs packages that are not installed; the message names the extra.

    Attributes:
        extra: The extra that brings them: ``worker`` in ``pip install 'unstale[worker]'``.
        package: The package that was missed first.
    """

    def __init__(self, what: str, *, extra: str, package: str) -> None:
        self.extra, self.package = extra, package
        super().__init__(
            f"{what} needs the package {package!r}, which is not installed. "
            f"Install the extra {extra!r}: pip install 'unstale[{extra}]'"
        )


class UnsupportedServer(UnstaleError):
    """The server cannot carry the protocol; the message says which server can."""


class Unavailable(UnstaleError):
    """A server does not answer; this is retried, so look at the server and the network."""


class RedisUnavailable(Unavailable):
    """Redis does not answer; check REDIS_URL and the server. Reads fall back to their loaders."""


class DatabaseUnavailable(Unavailable):
    """Postgres does not answer; check DATABASE_URL and the server. The worker keeps trying."""


class RedisRefused(RedisUnavailable, ConfigurationError):
    """Redis refuses what REDIS_URL says; the message names the part. Ends a command or a first start.

    A worker that has started before retries, because the mistake may be the server's.
    """


class DatabaseRefused(DatabaseUnavailable, ConfigurationError):
    """Postgres refuses what DATABASE_URL says; the message names the part. Ends a command or a first start.

    A worker that has started before retries, because the mistake may be the server's.
    """


class MessageError(UnstaleError):
    """Something another process wrote cannot be read; no part of it was used."""


class LeadershipLost(UnstaleError):
    """Another worker leads now; this one stands by and will try again."""


class PositionMoved(UnstaleError):
    """An applier script was refused and changed nothing; the worker reads the state and starts again.

    Attributes:
        reason: Which condition failed: ``fence``, ``run``, ``epoch`` or ``position``.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the applier's script was refused ({reason}); the worker reads the state again")


class WaitTimeout(UnstaleError, TimeoutError):
    """The token's transaction was not applied in time; check that a worker leads (``unstale stats``)."""


class LoadCancelled(UnstaleError):
    """A loader raised CancelledError though no caller cancelled the read; look for a cancelled task in it."""


class LoadCycle(UnstaleError, RuntimeError):
    """A loader reads a key whose load waits for this loader, so neither would ever end.

    Attributes:
        keys: The keys, each of which is loaded by reading the next; the last is the first again.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)
        super().__init__(
            f"a loader waits for its own result: {' -> '.join(map(repr, keys))}. Let it read the database, "
            "or another key"
        )


class CacheClosed(UnstaleError):
    """The cache is closed; open it again with `async with cache` or `await cache.start()`."""

    def __init__(self, message: str = __doc__ or "") -> None:
        super().__init__(message)


class CacheNotStarted(UnstaleError):
    """The cache is not started; use it inside `async with cache`, or call `await cache.start()` first."""

    def __init__(self, message: str = __doc__ or "") -> None:
        super().__init__(message)


class PoolClosed(UnstaleError):
    """The connection pool was closed; use it inside `async with ConnectionPool.from_env() as pool`."""


class LockTimeout(UnstaleError, TimeoutError):
    """Another instance held the lock for the whole ``timeout``; try again later or wait longer."""


class LockLost(UnstaleError):
    """The lock's lease ran out while it was held, so another instance may have worked at the same time.

    Take it with a longer ``ttl``, call ``extend`` while working, or refuse older ``fence`` numbers where you
    write.
    """


class ToolError(UnstaleError):
    """A tool call that cannot be executed; the sentence tells a model what to do instead."""


class EmbeddedServerError(UnstaleError):
    """An embedded server did not start; the message holds the end of its log."""
