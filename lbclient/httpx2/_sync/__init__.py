"""The I/O shell for `httpx2.Client`: generated."""
