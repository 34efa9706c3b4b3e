"""``unstale doctor``: check everything that unstale depends on and report problems with their remedies."""

from unstale_worker.doctor.findings import Finding, Severity
from unstale_worker.doctor.run import examine

__all__ = ["Finding", "Severity", "examine"]
