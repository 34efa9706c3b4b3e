"""The answer to a question about a test's caches: true or false, and the reason in words."""

import warnings
from typing import Any


class Answer:
    """True or false, for ``assert``; pytest prints the reason, because that is its repr."""

    def __init__(self, answer: bool, reason: str) -> None:
        self._answer, self._reason = answer, reason
        self._used = False

    def __bool__(self) -> bool:
        self._used = True
        return self._answer

    def __repr__(self) -> str:
        return f"<{self._answer}: {self._reason}>"

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if not self._used:
            _warn(f"the answer {self!r} was not used: write `assert` before the question", stacklevel=2)
