"""The table that a Realtime session listens to, and the session's timeouts."""

from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus

from unstale.errors import SettingError
from unstale.runtime.project_url import project_url


@dataclass(frozen=True, slots=True)
class Target:
    """A table of a project.

    Raises `SettingError` for an invalid URL, because the error of a library would quote it with the key.
    """

    url: str
    """The project's base URL, ``https://….supabase.co``."""
    key: str = field(repr=False)
    """A secret or ``service_role`` key; opaque."""
    schema: str
    table: str

    def __post_init__(self) -> None:
        project_url(self.url)
        if not self.key:
            raise SettingError(
                "SUPABASE_SECRET_KEY (or SUPABASE_SERVICE_ROLE_KEY) is empty: Realtime needs it"
            )

    @property
    def endpoint(self) -> str:
        """The address for the `realtime` client."""
        return f"{project_url(self.url).rstrip('/')}/realtime/v1"

    def masked(self, text: str) -> str:
        """Return `text` with the key masked, in plain and in URL-quoted form."""
        for key in {self.key, quote(self.key, safe=""), quote_plus(self.key)}:
            text = text.replace(key, "***")
        return text


@dataclass(frozen=True, slots=True)
class Timing:
    """Timeouts and pauses of a session, in seconds. Pauses are shortened at random by up to a half."""

    ready: float = 15.0
    """Limit from the first packet until changes are delivered; the service takes 1 to 3 s."""
    echo_every: float = 30.0
    """Silence before an echo is requested; an echo costs two messages of the project's quota."""
    echo_within: float = 10.0
    """Limit for the echo to return; after it the session counts as dead."""
    first_pause: float = 0.1
    """Pause before the second attempt; each consecutive failure doubles it."""
    most_pause: float = 5.0
    """Maximum pause between two attempts."""
    refused_pause: float = 30.0
    """Minimum pause after a refusal (wrong key, a limit, no such table), which persists for a while."""
    settled: float = 10.0
    """Lifetime after which a session counts as successful and resets the pause to `first_pause`."""
    close: float = 1.0
    """Limit for a closing handshake, before the connection is cut."""
