"""The I/O shell for httpx's async client. It carries out what the core decides."""
