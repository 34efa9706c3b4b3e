"""Find the companion's example project, which the demo runs."""

from importlib.util import find_spec
from pathlib import Path

from unstale.errors import ConfigurationError


def companion_folder() -> Path:
    """Return the project's folder: inside the installed package, else in the checkout.

    Raises `ConfigurationError` if it is in neither.
    """
    spec = find_spec("unstale_worker")
    assert spec is not None
    package = Path(str(spec.origin)).resolve().parent
    for folder in (package / "examples" / "companion", package.parents[1] / "examples" / "companion"):
        if folder.is_dir():
            return folder
    raise ConfigurationError("the companion example is missing from the installation; reinstall unstale")
