"""Logs: one JSON object per line if the output is not a terminal, and never a password."""

import io
import json
import logging
import re

import pytest

from unstale_worker.runtime.logs import configure_logging, get_logger, without_passwords
from workers.logs import capture_logs

SECRET = "postgresql://worker:s3cr3t-p%40ss@db.example.co:5432/postgres"


@pytest.fixture
def stream(logging_as_it_was: None) -> io.StringIO:
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    return stream


def test_a_line_is_a_json_object(stream: io.StringIO) -> None:
    get_logger("unstale.worker").info("leading", fence=3)
    logging.getLogger("unstale").warning("key %s has no rule", "user:1")

    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["fence"], first["level"]) == ("leading", 3, "info")
    assert (second["event"], second["level"]) == ("key user:1 has no rule", "warning")
    assert first["timestamp"].endswith("Z")


def test_less_than_the_level_is_not_said(stream: io.StringIO) -> None:
    get_logger("unstale.worker").debug("a read", entries=3)

    assert stream.getvalue() == ""


def test_no_password_is_ever_said(stream: io.StringIO) -> None:
    log = get_logger("unstale.worker")
    log.info("connecting", url=SECRET)
    log.info(f"to {SECRET}")
    logging.getLogger("unstale").error("refused by %s", SECRET)
    try:
        raise OSError(f"cannot reach {SECRET}")
    except OSError:
        log.exception("broken")

    said = stream.getvalue()
    assert len(said.splitlines()) == 4
    assert "s3cr3t" not in said
    assert said.count("worker:***@db.example.co") == 4


def test_an_exception_is_part_of_the_object(stream: io.StringIO) -> None:
    log = get_logger("unstale.worker")
    try:
        raise ValueError("x")
    except ValueError as error:
        log.error("first", exc_info=error)
        log.exception("second")

    for line in map(json.loads, stream.getvalue().splitlines()):
        assert line["level"] == "error"
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith("ValueError: x")


def test_a_terminal_gets_lines_in_colour(logging_as_it_was: None) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    configure_logging("info", stream=terminal)
    get_logger("unstale.worker").warning("leading", fence=3, url=SECRET)
    try:
        raise ValueError(SECRET)
    except ValueError:
        get_logger("unstale.worker").exception("broken")

    line, *more = re.sub(r"\x1b\[\d+m", "", terminal.getvalue()).splitlines()
    assert re.match(r"2\d{3}-\d\d-\d\dT\S+Z \[warning \] leading \[unstale.worker\] fence=3 url='post", line)
    assert " [error   ] broken [unstale.worker]" in more[0]
    assert more[1].startswith("Traceback")
    assert more[-1] == f"ValueError: {without_passwords(SECRET)}"
    assert "\x1b[33m" in terminal.getvalue()
    assert "s3cr3t" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:pw@host:1/0", "redis://:***@host:1/0"),
        ("rediss://user:pw@host", "rediss://user:***@host"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("mail me@example.org at 10:30", "mail me@example.org at 10:30"),
        ("a redis://:p1@h and postgres://u:p2@g", "a redis://:***@h and postgres://u:***@g"),
    ],
)
def test_only_passwords_of_urls_are_hidden(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_fields_are_said_and_can_be_captured(stream: io.StringIO) -> None:
    get_logger("unstale.source").info("source chosen", source="outbox", url=SECRET)
    get_logger("unstale.source").debug("not at this level")
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert (line["event"], line["source"], line["logger"]) == ("source chosen", "outbox", "unstale.source")
    assert "s3cr3t" not in line["url"]
    with capture_logs() as events:
        get_logger("unstale.source").warning("captured", n=1)
    assert events == [{"event": "captured", "n": 1, "log_level": "warning"}]


def test_what_a_logger_was_used_for_before_does_not_bind_it(stream: io.StringIO) -> None:
    log = get_logger("unstale.worker")
    log.info("to the stream")
    with capture_logs() as events:
        log.info("captured")
    assert [event["event"] for event in events] == ["captured"]
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["to the stream"]


def test_in_an_agents_process_it_goes_through_the_standard_library(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    get_logger("nobody.configured").info("not said by default")
    get_logger("nobody.configured").warning("a pooler", url=SECRET)
    assert "s3cr3t" not in caplog.text
    assert [record.getMessage().partition(" url=")[0] for record in caplog.records] == ["a pooler"]
    assert capfd.readouterr().out == ""
