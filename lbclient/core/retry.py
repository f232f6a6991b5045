"""The retry policy: configuration only. What it leads to is decided in `attempts.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from tenacity.stop import stop_after_attempt
from tenacity.wait import wait_random_exponential

from lbclient.core.budget import RetryBudget
from lbclient.core.checks import check_methods, check_number, check_statuses, check_whole

if TYPE_CHECKING:
    from tenacity import RetryCallState

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""The methods that may be repeated (RFC 9110, 9.2.2)."""

Stop: TypeAlias = "Callable[[RetryCallState], bool]"
Wait: TypeAlias = "Callable[[RetryCallState], float]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When a request is sent again, and to whom.

    What was provably not sent goes to another backend whatever its method. What may have been sent does only if the
    method is idempotent (or the caller says that the request is), and never once the response was handed out.

    Args:
        stop: tenacity's policy: `stop_after_attempt(3)` is three attempts in all; `stop_after_delay`, `|` and `&` work.
        wait: tenacity's policy: seconds to wait before a backend is tried a second time. Another one is tried at once.
        statuses: Responses that are asked for again elsewhere: 100 to 599.
        methods: The methods that may be repeated, in upper case.
        budget: What repeating may add to the load of the pool; None for no limit. Going elsewhere with a request of
            which nothing was sent adds none, and costs none.
        max_retry_after: Seconds of a `Retry-After` that are waited for when nobody else is left to ask; >= 0. When it
            asks for more, its response is returned.
        max_buffer: Bytes of a body that can be read only once (a generator, a pipe) which are kept for another
            attempt; >= 0. Without, such a request can be repeated only while nothing of its body was read.

    Raises:
        ValueError, TypeError: A value is out of its range.
    """

    stop: Stop = field(default_factory=lambda: stop_after_attempt(3))
    wait: Wait = field(default_factory=lambda: wait_random_exponential(multiplier=0.025, max=0.25))
    statuses: Collection[int] = (502, 503, 504)
    methods: Collection[str] = IDEMPOTENT
    budget: RetryBudget | None = field(default_factory=RetryBudget)
    max_retry_after: float = 5.0
    max_buffer: int = 0

    def __post_init__(self) -> None:
        for name, policy in (("stop", self.stop), ("wait", self.wait)):
            if isinstance(policy, (int, float)) or not callable(policy):
                raise TypeError(f"{name} is {policy!r}; write a policy of tenacity's, like {_EXAMPLES[name]}")
        check_statuses("statuses", self.statuses)
        check_methods(self.methods)
        if self.budget is not None and not isinstance(self.budget, RetryBudget):
            raise TypeError(f"budget is {self.budget!r}; write RetryBudget(...), or None for no limit")
        check_number("max_retry_after", self.max_retry_after, at_least=0)
        check_whole("max_buffer", self.max_buffer, at_least=0)

    @property
    def most_attempts(self) -> float:
        """The attempts that a request can have at most, where `stop` simply counts them; else infinity."""
        if isinstance(self.stop, stop_after_attempt):
            return self.stop.max_attempt_number
        return math.inf


_EXAMPLES = {"stop": "stop_after_attempt(3)", "wait": "wait_fixed(0.1)"}
