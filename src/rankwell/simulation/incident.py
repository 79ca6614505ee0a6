"""What befalls a marketplace and its server in a drill: one signature, one file a scenario.

Letters in names: C candidates, flat.
"""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rankwell.serving.bundle import Bundle

__all__ = ["Incident"]


class Incident(ABC):
    """A trouble from its onset to its end; whatever it does not name stays as it is.

    A scenario overrides one or more of the four: what is deployed, what clients send, what members want, when clicks
    arrive. All of them are functions of their arguments alone.
    """

    name: ClassVar[str]
    """As the command has it."""
    summary: ClassVar[str]
    """What happens, in a sentence."""
    suspects: ClassVar[frozenset[str]] = frozenset()
    """Columns of which any, ranked first, is the right explanation; empty: nothing is wrong."""
    segments: ClassVar[frozenset[int]] = frozenset()
    """Of the jobs' seniority that are hurt; empty: none more than the others."""

    def deployed(self, bundle: Bundle) -> Bundle:
        """What answers from the onset on, made of the bundle that is right; that one itself where none is deployed."""
        return bundle

    def sent(self, requests: pa.Table) -> pa.Table:
        """The columns of requests as they arrive at the server, made of those that are right."""
        return requests

    def wanted(self, click_logits_C: NDArray[np.float64], requests: pa.Table) -> NDArray[np.float64]:
        """The true logits of p(click | looked at), made of those before; candidates lie flat as in the table."""
        del requests
        return click_logits_C

    def reported_after_s(self, delays_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """How long after a click it is reported, made of the usual delays."""
        return delays_s
