"""The types of ASGI 3, for annotations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from lbclient.core.facts import Header

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

AtOnce: TypeAlias = Callable[[int, list[Header], bytes], bool]
"""Takes a response of which everything is there, and sends it with one write.

What a server's `send` may have as `at_once`. Whoever wraps such a `send` hides it, and sees the usual messages. False
when it cannot be taken now, because the client has to be waited for: it has to be sent by messages then.
"""
