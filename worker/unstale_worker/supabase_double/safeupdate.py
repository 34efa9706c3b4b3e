"""The `safeupdate` extension of the REST API's login, near enough: no UPDATE or DELETE without WHERE.

The extension looks at each statement as it is planned, also inside functions; no server of the tests has it.
So this reads the text of what a call may run: the function, and the functions it names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_NOISE = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)
_UPDATE = re.compile(
    r"(?<!for )(?<!do )\bupdate\s+(?:only\s+)?[\w.\"]+(?:\s+as\s+\w+|\s+\w+)?\s+set\b", re.IGNORECASE
)
_DELETE = re.compile(r"\bdelete\s+from\b", re.IGNORECASE)
_CALL = re.compile(r"\b([a-z_]\w*\.[a-z_]\w*)\s*\(", re.IGNORECASE)


def refusal(name: str, functions: Mapping[str, str]) -> str | None:
    """The sentence by which a call of ``name`` is refused; ``functions`` are bodies by qualified name."""
    waiting, seen = [name], set()
    while waiting:
        current = waiting.pop()
        if current in seen or current not in functions:
            continue
        seen.add(current)
        body = re.sub(r"\s+", " ", _NOISE.sub(" '' ", functions[current]))
        for kind, pattern in (("UPDATE", _UPDATE), ("DELETE", _DELETE)):
            if any(not _has_where(body, match.start()) for match in pattern.finditer(body)):
                return f"{kind} requires a WHERE clause"
        waiting += _CALL.findall(body)
    return None


def _has_where(body: str, start: int) -> bool:
    """Return True if the statement at ``start`` has its own WHERE, outside deeper parentheses."""
    depth, at = 0, start
    while at < len(body):
        character = body[at]
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth < 0:
                return False
        elif character == ";" and depth == 0:
            return False
        elif (
            depth == 0
            and re.match(r"\bwhere\b", body[at : at + 6] + " ", re.IGNORECASE)
            and body[at - 1] in " )"
        ):
            return True
        at += 1
    return False
