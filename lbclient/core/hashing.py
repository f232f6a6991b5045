"""The hash functions that consistent hashing is built on, each with the reason why it is the one.

`crc32` is NGINX's, `xxh64` is Envoy's: tables that shall equal theirs need theirs. What has nobody to agree
with but other lbclients takes `stable64`, which needs the standard library only. Python's own `hash` is none
of them: it differs from process to process.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import blake2b
from typing import TypeAlias
from zlib import crc32 as crc32

Digest: TypeAlias = Callable[[bytes], int]

_EIGHT = struct.Struct("<8Q")


def stable64(data: bytes) -> int:
    """64 bits of BLAKE2b (RFC 7693): the same in every process, on every machine and under every Python."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def stable64_stream(name: bytes, count: int) -> list[int]:
    """The first `count` of the 64-bit numbers that belong to `name`; a longer list begins with the shorter
    one.
    """
    numbers: list[int] = []
    block = 0
    while len(numbers) < count:
        # eight numbers a digest: six times as fast as one each, and rings have a hundred thousand of them
        digest = blake2b(name, salt=block.to_bytes(16, "little")).digest()
        numbers += _EIGHT.unpack(digest)
        block += 1
    return numbers[:count]


def xxh64(needed_by: str) -> Callable[..., int]:
    """The function `(data, seed=0)` of xxHash64, from the optional package `xxhash`.

    Args:
        needed_by: What the caller asked for, for the message.

    Raises:
        ImportError: The package is not installed.
    """
    try:
        from xxhash import xxh64_intdigest
    except ImportError as exc:
        raise ImportError(
            f"{needed_by} hashes with xxHash64, as Envoy does; install it with `pip install lbclient[xxhash]`"
        ) from exc
    return xxh64_intdigest
