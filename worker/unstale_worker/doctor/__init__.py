"""Looks at everything unstale stands on, and says what is wrong and what to do about it."""

from unstale_worker.doctor.findings import Finding, Severity
from unstale_worker.doctor.run import examine

__all__ = ["Finding", "Severity", "examine"]
