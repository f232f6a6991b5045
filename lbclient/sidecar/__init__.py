"""The sidecar: lbclient by the process, for whoever does not speak Python.

configuration.py   the file: sections (`pools.py`, `listeners.py`), their lines (`document.py`), what is wrong with them
"""
