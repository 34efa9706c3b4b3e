"""docs/providers.md: each cell of the table of promises names its test, or says that it does not hold."""

import re
from pathlib import Path

from typer.testing import CliRunner

from unstale_worker.cli.commands import DevRedis, app
from unstale_worker.redis.tiers import PROMISES, Tier

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "providers.md").read_text()
TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def rows() -> list[list[str]]:
    table = PAGE.partition("## Promises by tier")[2].partition("###")[0]
    found = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return [found[0], *found[2:]]


def test_every_named_test_exists() -> None:
    named = set(TEST.findall(PAGE))
    assert len(named) > 8
    for file, function in named:
        (path,) = (ROOT / "tests").rglob(file)
        assert re.search(rf"^(async )?def {function}\b", path.read_text(), re.MULTILINE), (file, function)


def test_every_cell_names_its_test_or_says_that_it_does_not_hold() -> None:
    head, *promises = rows()
    assert head == ["promise", "single", "Sentinel", "cluster", "no run id"]
    assert len(promises) >= 8
    for promise, *cells in promises:
        assert len(cells) == len(head) - 1, promise
        single, sentinel, cluster, no_run_id = cells
        assert TEST.search(single) or single in ("yes", "as the first row", "not applicable"), promise
        assert TEST.search(sentinel) or sentinel in ("as single", "yes", "not applicable"), promise
        assert TEST.search(cluster) or cluster in ("as single", "yes"), promise
        assert TEST.search(no_run_id) or no_run_id.startswith("**no**"), promise


def test_every_tier_has_a_sentence_and_every_kind_of_dev_server_is_named() -> None:
    assert set(PROMISES) == set(Tier)
    for kind in DevRedis:
        assert f"`unstale dev --redis {kind}`" in PAGE
    refused = CliRunner().invoke(app, ["dev", "--redis", "sentinel"])
    assert refused.exit_code == 2
