"""Opaque, signed values that stand for a name: what a client keeps of a decision and hands back.

A value is base64url, without padding, of

    id of the name (12 bytes) | expiry (6) | tag (15)        33 bytes, 44 characters, all of them fit for a cookie

The id is HMAC-SHA256 of the name, cut off, so nobody without the secret learns from it what it stands for. The tag is
HMAC-SHA256 of id and expiry, cut off to 120 bits. 33 bytes fill 44 characters without a bit left over, so there is
exactly one way to write a value. Two values for one name share their id: whoever holds both sees that they go to the
same place, and nothing else.
"""

from __future__ import annotations

import hmac
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Sequence
from secrets import token_bytes
from typing import TypeAlias

Secret: TypeAlias = str | bytes | Sequence[str | bytes] | None

SHORTEST_SECRET_BYTES = 16
LENGTH = 44

_ID, _EXPIRY, _TAG = 12, 6, 15
_SIGNED = _ID + _EXPIRY
_FORM = re.compile(rf"[A-Za-z0-9_-]{{{LENGTH}}}")
_LAST_MS = 2 ** (8 * _EXPIRY) - 1  # the year 10889
# Remembered beyond those asked about: backends come and go for as long as a process lives.
_MOST_NAMES = 65_536

_ADVICE = "write at least 16 random bytes, such as `secrets.token_urlsafe(32)` prints"


class Signer:
    """Issues values for names, and tells what a value was issued for.

    Args:
        secret: At least 16 bytes; text is taken as UTF-8. Of several the first signs and all of them verify: to rotate,
            put the new one in front, and take the old one out when what it signed may be forgotten. None is a random
            secret of this process: after a restart, and in every other process, the values are worth nothing and their
            clients are treated as new. Processes that were forked from this one share it. So it suits one process;
            several workers that serve the same browsers need a secret, or each refuses what the others issued.

    Raises:
        ValueError: The secret is too short, or there is none in the sequence. Anyone who holds a value can try out
            secrets as fast as their machine hashes, so words and short ones are found; 16 random bytes are not.
        TypeError: It is something else.
    """

    __slots__ = ("_keys",)

    def __init__(self, secret: Secret) -> None:
        if secret is None:
            secret = token_bytes(32)
        several = [secret] if isinstance(secret, (str, bytes)) else secret
        if not isinstance(several, Sequence):
            raise TypeError(
                f"secret is a {type(secret).__name__}; write str or bytes, a list of them, or None for a random one"
            )
        if not several:
            raise ValueError(f"secret is an empty list; {_ADVICE}, or None for a random one of this process")
        self._keys = tuple(_Key(_checked(one)) for one in several)

    def __repr__(self) -> str:
        return f"<Signer, {len(self._keys)} secret{'' if len(self._keys) == 1 else 's'}>"

    def issue(self, name: str, now: float, max_age: float | None = None) -> str:
        """A value that stands for `name`: 44 letters, digits, `-` and `_`.

        Args:
            name: What it stands for.
            now: The wall clock, in seconds since 1970.
            max_age: Seconds until it expires; None for never.
        """
        key = self._keys[0]
        signed = key.identify(name) + _expiry_ms(now, max_age).to_bytes(_EXPIRY, "big")
        return urlsafe_b64encode(signed + key.tag(signed)).decode("ascii")

    def find(self, value: str, names: Collection[str], now: float) -> str | None:
        """Which of `names` the value was issued for; None when it is no value of ours, expired, or for none of them.

        Takes anything for a value and raises nothing. Does not get slower with the number of names, if `names` is a
        dict or a set, and one that is replaced whole rather than edited: what it learned of an object it knows.
        """
        opened = self._open(value, now)
        if opened is None:
            return None
        key, identity = opened
        name = key.name_of(identity, names)
        return name if name in names else None

    def is_for(self, value: str, name: str, now: float) -> bool:
        """Whether the value was issued for `name` and has not expired."""
        opened = self._open(value, now)
        return opened is not None and opened[0].identify(name) == opened[1]

    def _open(self, value: str, now: float) -> tuple[_Key, bytes] | None:
        """The key that signed a value, and the id in it. Junk is refused by its form, before anything is hashed."""
        if not isinstance(value, str) or len(value) != LENGTH or not _FORM.fullmatch(value):
            return None
        raw = urlsafe_b64decode(value)
        signed, tag = raw[:_SIGNED], raw[_SIGNED:]
        for key in self._keys:
            if hmac.compare_digest(key.tag(signed), tag):
                expiry = int.from_bytes(signed[_ID:], "big")
                # strictly later, as HAProxy has it
                return None if expiry and not now * 1000 <= expiry else (key, signed[:_ID])
        return None


class _Key:
    """One secret: the ids and tags it gives, and the names whose ids it knows.

    What it knows is one tuple that is replaced whole, so threads need no lock: whoever loses the race learns again.
    """

    __slots__ = ("_known", "_secret")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._known: tuple[Collection[str], dict[bytes, str]] = ((), {})

    def identify(self, name: str) -> bytes:
        # the prefixes keep ids and tags apart: no name has an id that is the tag of something
        return hmac.digest(self._secret, b"name " + name.encode("utf-8", "surrogatepass"), "sha256")[:_ID]

    def tag(self, signed: bytes) -> bytes:
        return hmac.digest(self._secret, b"value " + signed, "sha256")[:_TAG]

    def name_of(self, identity: bytes, names: Collection[str]) -> str | None:
        """Whose id it is, `names` and everybody met before being looked at."""
        learned_from, known = self._known
        name = known.get(identity)
        if name is not None or learned_from is names:
            return name
        if len(known) > max(_MOST_NAMES, 2 * len(names)):
            known = {}
        met = frozenset(known.values())
        known = known | {self.identify(new): new for new in names if new not in met}
        self._known = (names, known)
        return known.get(identity)


def _checked(secret: object) -> bytes:
    # no message shows what the secret is
    if isinstance(secret, str):
        secret = secret.encode("utf-8", "surrogatepass")
    if not isinstance(secret, bytes):
        raise TypeError(f"secret is a {type(secret).__name__}; write str or bytes")
    if len(secret) < SHORTEST_SECRET_BYTES:
        raise ValueError(
            f"secret has {len(secret)} bytes, so it can be guessed from any value it signed; {_ADVICE}"
        )
    return secret


def _expiry_ms(now: float, max_age: float | None) -> int:
    """When a value expires; 0 for never."""
    if max_age is None:
        return 0
    return math.ceil(max(1.0, min((now + max_age) * 1000, float(_LAST_MS))))
