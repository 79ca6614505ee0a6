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
from rankwell.simulation.marketplace import Marketplace

__all__ = ["Incident"]


class Incident(ABC):
    """A trouble from its onset to its end; whatever it does not name stays as it is.

    A scenario overrides one or more of the five: what is deployed, which candidates there are, what clients send, what
    members want, when clicks arrive. All of them are functions of their arguments alone. And it says what a watcher is
    to make of it, and by when.
    """

    name: ClassVar[str]
    """As the command has it."""
    summary: ClassVar[str]
    """What happens, in a sentence."""
    segment_by: ClassVar[str] = "job_seniority"
    """The feature of jobs by whose values a drill calibrates, watches and corrects."""
    suspects: ClassVar[frozenset[str]] = frozenset()
    """Columns of which any, ranked first, is the right explanation; empty: nothing is to be explained."""
    segments: ClassVar[frozenset[int]] = frozenset()
    """That are hurt: clicks are other than promised until it is corrected; empty: none more than the others."""
    drift_within: ClassVar[int | None] = None
    """Quarter-hours from the onset until it is found without labels, by a suspect; None: nothing is to be seen."""
    clicks_within: ClassVar[int | None] = None
    """Quarter-hours until it is found by clicks, from when their labels are known; None: clicks need not show it."""
    may_be_corrected: ClassVar[bool] = True
    """False: probabilities are right, and whoever corrects them has failed."""
    traffic: ClassVar[int] = 1
    """So many times the usual requests: what it takes to know a small segment's ratio well enough."""
    num_windows: ClassVar[int] = 8
    """Quarter-hours until people deploy what is right."""
    num_after: ClassVar[int] = 1
    """Quarter-hours that are played after that."""

    def deployed(self, bundle: Bundle) -> Bundle:
        """What answers from the onset on, made of the bundle that is right; that one itself where none is deployed."""
        return bundle

    def offered(self, marketplace: Marketplace) -> Marketplace:
        """Where candidates come from, made of where they came from before; members and jobs are the same."""
        return marketplace

    def sent(self, requests: pa.Table) -> pa.Table:
        """The columns of requests as they arrive at the server, made of those that are right."""
        return requests

    def wanted(self, click_logits_C: NDArray[np.float64], requests: pa.Table) -> NDArray[np.float64]:
        """The true logits of p(click | looked at), made of those before; candidates lie flat as in the table."""
        del requests
        return click_logits_C

    def reported_after_s(self, delays_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """How long after a request its clicks are reported, made of how long after it they are: no less than that."""
        return delays_s
