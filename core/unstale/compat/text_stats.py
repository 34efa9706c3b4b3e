"""Statistics as the `redis_cache` interface shows them: a percentage and a size as text."""

from collections.abc import Mapping

UNITS = ("B", "K", "M", "G")


def text_stats(stats: Mapping[str, object]) -> dict[str, object]:
    """Return ``stats`` with ``hit_rate`` as ``'93.1%'`` and ``redis_memory`` as ``'1.02M'``.

    Example:
        >>> text_stats({"cache_hits": 3, "cache_misses": 1, "redis_memory": 1_048_576})["hit_rate"]
        '75.0%'
    """
    hits, misses, memory = stats["cache_hits"], stats["cache_misses"], stats["redis_memory"]
    assert isinstance(hits, int)
    assert isinstance(misses, int)
    rate = hits / (hits + misses) if hits + misses else 0.0
    size = _size(memory) if isinstance(memory, int) else memory
    return {**stats, "hit_rate": f"{rate:.1%}", "redis_memory": size}


def _size(count: float) -> str:
    """Write a number of bytes as Redis does in ``used_memory_human``."""
    for unit in UNITS[:-1]:
        if count < 1024:
            return f"{count}B" if unit == "B" else f"{count:.2f}{unit}"
        count /= 1024
    return f"{count:.2f}{UNITS[-1]}"
