"""What a Realtime session is opened to, and how patient it is."""

from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus, urlsplit

from unstale.errors import SettingError


@dataclass(frozen=True, slots=True)
class Target:
    """A table of a project. Raises `SettingError` for what is no address: a library would quote it, and the
    key with it."""

    url: str
    """The project's base URL, ``https://….supabase.co``."""
    key: str = field(repr=False)
    """A secret or ``service_role`` key; opaque."""
    schema: str
    table: str

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise SettingError(f"SUPABASE_URL: {self.url!r} is no address; expected https://….supabase.co")
        if not self.key:
            raise SettingError(
                "SUPABASE_SECRET_KEY (or SUPABASE_SERVICE_ROLE_KEY) is empty: Realtime needs it"
            )

    @property
    def endpoint(self) -> str:
        """The address the `realtime` client wants."""
        return f"{self.url.rstrip('/')}/realtime/v1"

    def masked(self, text: str) -> str:
        """`text` without the key, as it is or as a URL quotes it."""
        for key in {self.key, quote(self.key, safe=""), quote_plus(self.key)}:
            text = text.replace(key, "***")
        return text


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a session waits for things. Pauses between attempts are shortened by up to a half at random."""

    ready: float = 15.0
    """From the first packet until changes are delivered; the service takes 1 to 3."""
    echo_every: float = 30.0
    """Of silence before an echo is asked for: it costs two messages of the project's quota."""
    echo_within: float = 10.0
    """For the echo to come back, else the session counts as dead."""
    first_pause: float = 0.1
    """Before the second attempt; each failure in a row doubles it."""
    most_pause: float = 5.0
    """Between two attempts, however many failed."""
    refused_pause: float = 30.0
    """At least, where the service said no (wrong key, a limit, no such table) and will again."""
    settled: float = 10.0
    """After which a session counts as good, and the next pause begins at `first_pause` again."""
    close: float = 1.0
    """For a closing handshake, before the connection is cut."""
