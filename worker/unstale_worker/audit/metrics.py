"""The figures of an audit as Prometheus metrics, in a file for the node exporter's textfile collector."""

from pathlib import Path

from prometheus_client import write_to_textfile

from unstale_worker.audit.auditor import Auditor
from unstale_worker.audit.publishing import published
from unstale_worker.observe.audit_metrics import registry_of


def write_metrics(path: Path, auditor: Auditor) -> None:
    """Replace the file in one step."""
    write_to_textfile(str(path), registry_of(published(auditor)))
