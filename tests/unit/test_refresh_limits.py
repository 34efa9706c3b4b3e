"""Refresh limits: a refusal's headers, the permitted rate, and keys that wait for their turn."""

import httpx2
import openai
import pytest

from unstale_worker.refresh.python.openai_backoff import LONGEST, UNNAMED, pause_for, pause_of
from unstale_worker.refresh.sql.pending_keys import PendingKeys
from unstale_worker.refresh.sql.rate_window import RateWindow
from unstale_worker.rules.refresh import Rate

NOON = 1_792_929_600.0  # Sun, 25 Oct 2026 12:00:00 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "20", "x-ratelimit-reset-requests": "1s"}, 20.0),
        ({"retry-after": "Sun, 25 Oct 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun, 25 Oct 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "20ms"}, 1.0),
        (
            {
                "x-ratelimit-reset-requests": "7m12s",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-tokens": "1.5s",
                "x-ratelimit-remaining-tokens": "0",
            },
            1.5,
        ),
        ({"x-ratelimit-reset-requests": "1 fortnight"}, UNNAMED),
        ({"retry-after": "-3"}, UNNAMED),
        ({"retry-after": "nan"}, UNNAMED),
        ({}, UNNAMED),
    ],
)
def test_headers(headers: dict[str, str], seconds: float) -> None:
    assert pause_of(headers, now=NOON) == pytest.approx(seconds)


def refusal(headers: dict[str, str], **body: str) -> openai.RateLimitError:
    request = httpx2.Request("POST", "http://localhost/v1/chat/completions")
    response = httpx2.Response(429, headers=headers, request=request)
    return openai.RateLimitError("no", response=response, body=body)


def test_which_errors_are_refusals_for_the_rate() -> None:
    assert pause_for(refusal({"Retry-After": "2"})) == 2.0
    assert pause_for(refusal({"Retry-After": "86400"})) == LONGEST
    assert pause_for(refusal({"Retry-After": "2"}, code="insufficient_quota")) is None
    assert pause_for(ValueError("no")) is None


def test_a_rate_is_a_sliding_window() -> None:
    window = RateWindow(Rate(3, 10.0))
    assert window.grant(2, now=0.0) == 2
    assert window.wait(now=0.0) == 0.0
    assert window.grant(5, now=4.0) == 1
    assert window.grant(5, now=9.9) == 0
    assert window.wait(now=9.0) == pytest.approx(1.0)
    assert window.grant(5, now=10.0) == 2
    assert window.wait(now=10.0) == pytest.approx(4.0)


async def test_keys_wait_in_order_and_each_once() -> None:
    pending = PendingKeys()
    pending.put(["a", "b"])
    pending.put(["a", "c"])
    assert len(pending) == 3
    assert await pending.take(2) == ["a", "b"]
    pending.put([])
    assert await pending.take(2) == ["c"]
    assert len(pending) == 0
