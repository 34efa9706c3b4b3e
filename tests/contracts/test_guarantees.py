"""Every promise names tests that exist, and the protocol's page knows every defence of the model."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
DEFENCES = (ROOT / "tests" / "model" / "defences.py").read_text()


def promises() -> list[str]:
    table = GUARANTEES.partition("## Promised")[2].partition("## Not promised")[0]
    return [line for line in table.splitlines() if line.startswith("| ") and "---" not in line][1:]


def test_every_named_test_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", GUARANTEES)
    assert len(named) > 30
    for file, function in named:
        found = list((ROOT / "tests").rglob(file))
        assert len(found) == 1, file
        text = found[0].read_text()
        assert re.search(rf"^(async )?def {function or 'test_'}", text, re.MULTILINE), (file, function)


def test_every_promise_names_a_test() -> None:
    rows = promises()
    assert len(rows) > 10
    for number, row in enumerate(rows):
        introduces = number + 1 < len(rows) and rows[number + 1].startswith("| …")
        assert "`test_" in row or introduces, row


def test_the_protocol_names_the_models_defences_and_no_other() -> None:
    known = set(re.findall(r"^    ([A-Z_]+) = ", DEFENCES, re.MULTILINE))
    named = set(re.findall(r"`([A-Z]{3,}(?:_[A-Z]+)*)`", PROTOCOL))
    assert named <= known
    # Those are said in the page's words, as they are about a script's refusals or about waiting.
    assert known - named <= {"EPOCH_COMPARED", "FENCE", "TOKEN_DURABLE"}
