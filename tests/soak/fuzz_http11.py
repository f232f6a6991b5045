"""The HTTP/1.1 reader against h11, guided by coverage. By hand, for as long as one likes:

    pip install atheris
    python -m tests.soak.fuzz_http11 -max_total_time=600 CORPUS

CORPUS is a directory, empty at first, for what was found to be interesting; the options are libFuzzer's. It stops at
the first input that we accept and h11 does not, that the two read differently, that means something else when it is cut
elsewhere, or that one of the two chokes on. The first byte of an input says what is asked and how it is cut, the rest
is the response; half of the inputs are written behind a status line, since few random bytes are one.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped]  # not for every Python, so no dependency

with atheris.instrument_imports(include=["lbclient._async.http11"]):
    from lbclient._async import http11
    from tests.fuzz.test_http11 import agree, means_the_same

METHODS = (b"GET", b"GET", b"HEAD", b"CONNECT")
HEADS = (
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: ",
)
LARGEST = http11.MAX_HEAD // 2  # h11 has limits of its own, beyond which the two may differ


def one(data: bytes) -> None:
    """Look at one input."""
    if not data or len(data) > LARGEST:
        return
    choice, response = data[0], data[1:]
    method, ends = METHODS[choice & 3], bool(choice & 4)
    if choice & 8:
        response = HEADS[(choice >> 4) % len(HEADS)] + response
    agree(response, method, ends)
    means_the_same(response, method, sorted({choice % (len(response) + 1), len(response) // 2}))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
