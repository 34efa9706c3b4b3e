"""The rules: from ``unstale.toml`` to the keys that a change affects.

Pure decisions; the only I/O is reading that one file.
"""

from unstale_worker.rules.difference import Difference, difference
from unstale_worker.rules.former import removed, with_former
from unstale_worker.rules.identifiers import TableName
from unstale_worker.rules.model import Rules, TableNeeds
from unstale_worker.rules.plan import Arguments, Plan, Watch
from unstale_worker.rules.query import Query
from unstale_worker.rules.refresh import (
    Loader,
    PythonLoader,
    Rate,
    RefreshSpec,
    Renewal,
    RowLoader,
    SqlLoader,
)
from unstale_worker.rules.template import Template

__all__ = [
    "Arguments",
    "Difference",
    "Loader",
    "Plan",
    "PythonLoader",
    "Query",
    "Rate",
    "RefreshSpec",
    "Renewal",
    "RowLoader",
    "Rules",
    "SqlLoader",
    "TableName",
    "TableNeeds",
    "Template",
    "Watch",
    "difference",
    "removed",
    "with_former",
]
