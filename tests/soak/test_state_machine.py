"""The pool in whatever order things may happen to it: tests/core/test_state_machine.py, for longer."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.core.test_state_machine import SUITE, Fleet


@pytest.mark.timeout(900)
def test_no_order_of_events_breaks_the_pool() -> None:
    run_state_machine_as_test(Fleet, settings=settings(SUITE, max_examples=5000, stateful_step_count=80))
