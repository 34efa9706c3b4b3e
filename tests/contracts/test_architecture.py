"""A reader who has only docs/architecture.md can name the file for a change: ten questions, with answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
FOLDERS = ("core/unstale", "worker/unstale_worker")

QUESTIONS: dict[str, tuple[str, ...]] = {
    "Make the TTL jitter depend on the length of the TTL": (
        "core/unstale/freshness/published_rules.py",
        "worker/unstale_worker/refresh/ttl.py",
    ),
    "Ask Redis before the near cache": ("core/unstale/reading/read_path.py",),
    "Let agents use another Redis command": (
        "core/unstale/redis_tier/shared_tier.py",
        "core/unstale/redis_tier/lua",
    ),
    "Count an agent as attached for longer": ("core/unstale/freshness/trust.py",),
    "Add a metric": ("worker/unstale_worker/observe/metrics.py",),
    "Let a failed refresh wait longer before it is retried": ("worker/unstale_worker/refresh/outcomes.py",),
    "Add a field to unstale.toml": ("worker/unstale_worker/rules/parse.py",),
    "Add a field to a message": ("core/unstale/protocol/messages.py",),
    "Retry after another error of Postgres": ("worker/unstale_worker/runtime/postgres_errors.py",),
    "Reword what `unstale doctor` prints about captures": ("worker/unstale_worker/doctor/schema_checks.py",),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_page_names_the_file_for_a_change(question: str) -> None:
    for answer in QUESTIONS[question]:
        assert (ROOT / answer).exists(), answer
        assert f"`{answer}`" in PAGE, answer


@pytest.mark.parametrize("package", FOLDERS)
def test_the_page_names_every_folder(package: str) -> None:
    folders = [path.name for path in (ROOT / package).iterdir() if (path / "__init__.py").is_file()]
    missing = [name for name in folders if f"`{package}/{name}" not in PAGE]
    # What holds nothing but SQL or a copy is no place to change behaviour.
    assert set(missing) <= {"sql"}


def test_both_walks_go_through_files_in_order() -> None:
    for heading, steps in (("## A read, step by step", 8), ("## A change, step by step", 10)):
        walk = PAGE.partition(heading)[2].partition("\n## ")[0]
        numbered = re.split(r"^\d+\. ", walk, flags=re.MULTILINE)[1:]
        assert len(numbered) == steps
        assert all(
            re.search(r"`(?:core|worker|supabase)/[\w/.]+`", step) for step in numbered if "Wait" not in step
        )
