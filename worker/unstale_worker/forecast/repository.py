"""The rules of another revision or file, to compare with those on disk."""

import subprocess
import tempfile
from pathlib import Path

from unstale.errors import ConfigurationError
from unstale_worker.rules import Rules


def other_rules(against: str, rules: Rules) -> Rules:
    """Return the rules of the file, or of the git revision, ``against``.

    Raises:
        ConfigurationError: There is no such file or revision, or its rules have mistakes.
    """
    path = Path(against)
    if path.is_file():
        return Rules.load(path)
    current = Path(rules.file).resolve()
    try:
        shown = subprocess.run(
            ["git", "show", "--end-of-options", f"{against}:./{current.name}"],
            cwd=current.parent,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
    except OSError as error:
        raise ConfigurationError(
            f"{against!r} is no file, and git cannot be run ({error.strerror})"
        ) from error
    if shown.returncode:
        why = (shown.stderr.strip().splitlines() or ["git gave no reason"])[-1].removeprefix("fatal: ")
        raise ConfigurationError(
            f"--against {against!r} is neither a file nor a git revision with {current.name} ({why}); give "
            "the path of a rules file, or a revision such as main or HEAD~1"
        )
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / current.name
        copy.write_text(shown.stdout, "utf-8")
        try:
            return Rules.load(copy)
        except ConfigurationError as error:
            text = str(error).replace(str(copy), f"{against}:{current.name}")
            raise ConfigurationError(text) from None
