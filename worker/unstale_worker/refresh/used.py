"""Calls of a Python loader, and their tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Used:
    """Calls of a loader, and the tokens of language models that they used.

    Attributes:
        calls: Calls; one that found its inputs unchanged and called no model does not count.
        tokens_in: Tokens of prompts.
        tokens_out: Tokens of answers.
    """

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def add(self, header: Mapping[str, Any]) -> None:
        """Add what a process has said of one call."""
        calls, tokens_in, tokens_out = header.get("used", (0, 0, 0))
        self.calls += calls
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
