"""Folders for a server's files, and the user it runs as."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from unstale.errors import EmbeddedServerError


@dataclass(frozen=True, slots=True)
class User:
    """The user that a server runs as if the current user is root."""

    uid: int
    gid: int
    name: str


def unprivileged_user() -> User | None:
    """Return the user for a program that refuses to run as root; None if the current user is not root."""
    if os.geteuid() != 0:
        return None
    for name in ("nobody", "daemon"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(uid=entry.pw_uid, gid=entry.pw_gid, name=name)
    raise EmbeddedServerError(
        "Postgres refuses to run as root, and there is no user 'nobody' or 'daemon'; run unstale as a normal "
        "user"
    )


def owner_of(path: Path) -> User | None:
    """Return the owner of `path`; None for root."""
    status = path.stat()
    return User(uid=status.st_uid, gid=status.st_gid, name=str(status.st_uid)) if status.st_uid else None


def reachable(path: Path) -> bool:
    """Return True if every user may read `path`.

    For others, the folders above need the permission x, and a folder itself needs r and x.
    """
    try:
        mode = path.stat().st_mode
        wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
        return mode & wanted == wanted and all(
            parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents
        )
    except OSError:
        return False


def make_folder(directory: Path | None, *, prefix: str, user: User | None) -> tuple[Path, bool]:
    """Return the folder of a server, and True if it is temporary and must be removed.

    A given folder is created if it is missing. A temporary one is created in the usual place; or in /var/tmp
    if `user` cannot access that place, such as root's TMPDIR in root's home.
    """
    if directory is not None:
        folder = directory.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if user is not None and not all(p.stat().st_mode & stat.S_IXOTH for p in (folder, *folder.parents)):
            raise EmbeddedServerError(
                f"Postgres cannot run as root and runs as {user.name!r}, which cannot access {folder}; "
                "choose a folder that every user may access, for example below /var/tmp"
            )
        return folder, False
    parent = Path(tempfile.gettempdir()).resolve()
    if user is not None and not all(p.stat().st_mode & stat.S_IXOTH for p in (parent, *parent.parents)):
        parent = Path("/var/tmp")
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    if user is not None:
        folder.chmod(0o711)  # may be traversed but not listed
    return folder, True
