"""`RedisCache.get_stats` keeps its strings, whatever `Cache.get_stats` returns."""

import pytest

from unstale.compat.text_stats import text_stats


@pytest.mark.parametrize(
    ("hits", "misses", "rate"), [(0, 0, "0.0%"), (3, 1, "75.0%"), (931, 69, "93.1%"), (1, 0, "100.0%")]
)
def test_the_hit_rate_is_a_percentage(hits: int, misses: int, rate: str) -> None:
    stats = {"hit_rate": 0.5, "cache_hits": hits, "cache_misses": misses, "redis_memory": None, "last": 7}
    assert text_stats(stats) == {**stats, "hit_rate": rate}


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.00K"),
        (1_073_742, "1.02M"),
        (3 * 1024**4, "3072.00G"),
        ("1M", "1M"),
    ],
)
def test_the_memory_is_written_as_redis_writes_it(size: object, text: str) -> None:
    stats = {"cache_hits": 0, "cache_misses": 0, "redis_memory": size}
    assert text_stats(stats)["redis_memory"] == text
