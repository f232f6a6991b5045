"""Decisions: who may be picked, who is picked, what its end proves, what comes next.

Nothing here does I/O or has a clock or randomness of its own: both come in as arguments, so that every
decision can be replayed, tested without sleeping, and simulated.
"""
