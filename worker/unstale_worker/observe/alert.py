"""A condition on a metric under which somebody should look."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition under which somebody should look.

    Attributes:
        name: Name of the alert.
        when: Expression of PromQL that has a result while the alert is due; ``{name}`` is the metric.
        lasting: Seconds for which it must hold.
        severity: ``critical``: values may be old, or soon will be; ``warning``: something is wrong.
        meaning: One sentence.
        look: Page and section of the documentation.
    """

    name: str
    when: str
    lasting: int
    severity: Literal["critical", "warning"]
    meaning: str
    look: str
