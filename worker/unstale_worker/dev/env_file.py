"""Write the URLs of ``unstale dev`` into an ``.env`` file, beside the lines of the user."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from unstale.errors import ConfigurationError

BEGIN: Final = "# unstale dev writes these lines at each start; the last value of a name counts"
END: Final = "# end of unstale dev"
_BLOCK = re.compile(rf"^{re.escape(BEGIN)}\r?\n(?:.*\n)*?{re.escape(END)}[^\n]*(?:\n|\Z)", re.MULTILINE)
_NAME = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)\s*=", re.MULTILINE)


def write_env(path: Path, values: Mapping[str, str]) -> list[str]:
    """Put `values` into a block at the end of the file, which later calls replace; keep everything else.

    Returns the names that other lines of the file set too. Those lines stay, and count no more while the
    block is there. A new file can be read by its owner only. Raises `ConfigurationError`.
    """
    path = path.resolve()  # a link stays one
    try:
        before = path.read_bytes().decode() if path.exists() else ""
        rest = _BLOCK.sub("", before)
        end = "\r\n" if "\r\n" in rest else "\n"
        if rest and not rest.endswith("\n"):
            rest += end
        block = [BEGIN, *(f"{name}={value}" for name, value in values.items()), END]
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        handle, temporary = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write((rest + end.join([*block, ""])).encode())
            Path(temporary).chmod(mode)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot write {path} ({error}); check --env-file") from error
    set_too = {match[1] for match in _NAME.finditer(rest)}
    return [name for name in values if name in set_too]
