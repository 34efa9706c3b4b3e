"""zstd by the library `zstandard`.

It is chosen over ``backports.zstd``, the library of Python 3.14 for older ones: that makes a new context for
each value, and so takes twice as long to decompress a small one. Both are well kept, and have wheels for
every Python since 3.11.
"""

from threading import local
from typing import Any, Final

from unstale.runtime.extras import needs

LEVEL: Final = 1
"""The fastest ordinary level: a value is compressed while a reader waits."""


class Zstd:
    """Compresses and decompresses; raises `MissingExtra` if the library is missing.

    A context may serve one thread at a time, so each thread has its own.
    """

    def __init__(self) -> None:
        with needs("crypto", what="UNSTALE_COMPRESS_ABOVE"):
            import zstandard
        self._library = zstandard
        self._kept = local()

    def compress(self, data: bytes) -> bytes:
        """Return ``data`` as one frame, which names its length."""
        compressor: Any = getattr(self._kept, "compressor", None)
        if compressor is None:
            compressor = self._kept.compressor = self._library.ZstdCompressor(level=LEVEL)
        frame: bytes = compressor.compress(data)
        return frame

    def decompress(self, frame: bytes, *, most: int) -> bytes:
        """Return the content of one frame; raises ValueError if it is damaged or over ``most`` bytes."""
        decompressor: Any = getattr(self._kept, "decompressor", None)
        if decompressor is None:
            decompressor = self._kept.decompressor = self._library.ZstdDecompressor()
        try:
            size = self._library.frame_content_size(frame)
            if not 0 <= size <= most:  # the room for it is made before it is read
                raise ValueError(f"a zstd frame of more than {most} bytes, or of unknown length")
            data: bytes = decompressor.decompress(frame, allow_extra_data=False)
        except self._library.ZstdError as error:
            raise ValueError("no zstd frame") from error
        return data
