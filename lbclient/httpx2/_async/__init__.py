"""The I/O shell for `httpx2.AsyncClient`: generated."""
