"""Where a server's files may lie, and as whom it may run."""

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
    """Whom a server runs as when we are root and it refuses to be."""

    uid: int
    gid: int
    name: str


def unprivileged_user() -> User | None:
    """Whom to become for a program that refuses to run as root; None when we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("nobody", "daemon"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(uid=entry.pw_uid, gid=entry.pw_gid, name=name)
    raise EmbeddedServerError(
        "Postgres refuses to run as root, and there is no user 'nobody': run unstale as a normal user"
    )


def owner_of(path: Path) -> User | None:
    """Whom `path` belongs to; None when it is root."""
    status = path.stat()
    return User(uid=status.st_uid, gid=status.st_gid, name=str(status.st_uid)) if status.st_uid else None


def reachable(path: Path) -> bool:
    """Whether every user may read `path`: folders above need x for others, a folder itself r and x."""
    try:
        mode = path.stat().st_mode
        wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
        return mode & wanted == wanted and all(
            parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents
        )
    except OSError:
        return False


def make_folder(directory: Path | None, *, prefix: str, user: User | None) -> tuple[Path, bool]:
    """The folder a server lives in, and whether it is ours to remove.

    A given folder is created when missing. An own one lies where temporary files lie; when `user` could not
    reach that (root's TMPDIR in root's home), in /var/tmp.
    """
    if directory is not None:
        folder = directory.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if user is not None and not all(p.stat().st_mode & stat.S_IXOTH for p in (folder, *folder.parents)):
            raise EmbeddedServerError(
                f"Postgres runs as {user.name!r} because we are root, and that user cannot enter {folder}: "
                "choose a folder below one that everybody may enter, for example /var/tmp"
            )
        return folder, False
    parent = Path(tempfile.gettempdir()).resolve()
    if user is not None and not all(p.stat().st_mode & stat.S_IXOTH for p in (parent, *parent.parents)):
        parent = Path("/var/tmp")
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    if user is not None:
        folder.chmod(0o711)  # to be passed through, not to be listed
    return folder, True
