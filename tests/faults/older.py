"""A copy of what a Valkey has on disk, to be put back later."""

from unstale_worker.dev_servers import EmbeddedValkey


class Older:
    """What a server with an append-only file holds now."""

    def __init__(self, server: EmbeddedValkey) -> None:
        self._folder = server.folder / "appendonlydir"
        self._files = {path.name: path.read_bytes() for path in self._folder.iterdir()}
        assert self._files

    def remove(self) -> None:
        """Let the server find nothing when it starts; it must not run."""
        for path in self._folder.iterdir():
            path.unlink()

    def put_back(self) -> None:
        """In the place of what is there; the server must not run."""
        self.remove()
        for name, data in self._files.items():
            (self._folder / name).write_bytes(data)
