"""What servers say about their load, in the headers of their responses.

`X-LB-Inflight: 17`, or ORCA's `endpoint-load-metrics` with a named metric `in_flight` (as text or JSON, gRFC A51 and
the xDS type `OrcaLoadReport`): how many requests the server is working on, this one included.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from lbclient.core.facts import Header

OURS = b"x-lb-inflight"
ORCA = b"endpoint-load-metrics"
_METRIC = "named_metrics.in_flight"


def reported_in_flight(headers: Iterable[Header]) -> float | None:
    """The number in flight at the server that sent these headers; None when it does not say, or nonsense."""
    for name, value in headers:
        length = len(name)  # most headers have another one, which costs less to see than their case to fold
        if length == 13 and name.lower() == OURS:
            return _number(value.decode("latin-1"))
        if length == 21 and name.lower() == ORCA:
            return _of_orca(value.decode("latin-1").strip())
    return None


def _of_orca(text: str) -> float | None:
    kind, _, rest = text.partition(" ")
    if kind == "JSON":
        try:
            report: Any = json.loads(rest)
            return _number(str(report["named_metrics"]["in_flight"]))
        except (ValueError, KeyError, TypeError):
            return None
    for pair in (rest if kind == "TEXT" else text).split(","):
        name, _, value = pair.partition("=")
        if name.strip() == _METRIC:
            return _number(value)
    return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
