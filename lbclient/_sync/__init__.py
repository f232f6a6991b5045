"""The I/O shell for `httpx.Client`: generated from `_async`, but for what is written by hand."""
