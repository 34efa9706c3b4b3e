"""Logs: one JSON object per line if the output is not a terminal, and never a password."""

import io
import json
import logging

import pytest
import structlog

from unstale_worker.runtime.logs import configure_logging, get_logger, without_passwords

SECRET = "postgresql://worker:s3cr3t-p%40ss@db.example.co:5432/postgres"


@pytest.fixture
def stream(logging_as_it_was: None) -> io.StringIO:
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    return stream


def test_a_line_is_a_json_object(stream: io.StringIO) -> None:
    structlog.get_logger("unstale.worker").info("leading", fence=3)
    logging.getLogger("unstale").warning("key %s has no rule", "user:1")

    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["fence"], first["level"]) == ("leading", 3, "info")
    assert (second["event"], second["level"]) == ("key user:1 has no rule", "warning")
    assert first["timestamp"].endswith("Z")


def test_less_than_the_level_is_not_said(stream: io.StringIO) -> None:
    structlog.get_logger("unstale.worker").debug("a read", entries=3)

    assert stream.getvalue() == ""


def test_no_password_is_ever_said(stream: io.StringIO) -> None:
    log = structlog.get_logger("unstale.worker")
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


def test_where_structlog_is_set_up_it_is_one_of_its_loggers(stream: io.StringIO) -> None:
    get_logger("unstale.source").info("source chosen", source="outbox", url=SECRET)
    get_logger("unstale.source").debug("not at this level")
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert (line["event"], line["source"], line["logger"]) == ("source chosen", "outbox", "unstale.source")
    assert "s3cr3t" not in line["url"]
    with structlog.testing.capture_logs() as events:
        get_logger("unstale.source").warning("captured", n=1)
    assert events == [{"event": "captured", "n": 1, "log_level": "warning"}]


def test_what_a_logger_was_used_for_before_does_not_bind_it(stream: io.StringIO) -> None:
    log = structlog.get_logger("unstale.worker")
    log.info("to the stream")
    with structlog.testing.capture_logs() as events:
        log.info("captured")
    assert [event["event"] for event in events] == ["captured"]
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["to the stream"]


def test_in_an_agents_process_it_goes_through_the_standard_library(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not structlog.is_configured()
    get_logger("nobody.configured").info("not said by default")
    get_logger("nobody.configured").warning("a pooler", url=SECRET)
    assert "s3cr3t" not in caplog.text
    assert [record.getMessage().partition(" url=")[0] for record in caplog.records] == ["a pooler"]
    assert capfd.readouterr().out == ""
