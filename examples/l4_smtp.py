"""Layer 4, without an event loop: the standard library's smtplib over a socket of `lbclient.l4.create_connection`.

Needs aiosmtpd (pip install aiosmtpd), which it starts twice, on free ports.
"""

import smtplib
import socket
from typing import Any

from _programs import free_port

from lbclient import Pool, l4

try:
    from aiosmtpd.controller import Controller
except ImportError:
    raise SystemExit("skipped: this example needs aiosmtpd (pip install aiosmtpd)") from None


class Mailbox:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.letters: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802  # aiosmtpd's name
        self.letters.append(envelope.content.decode())
        return "250 taken"


class BalancedSMTP(smtplib.SMTP):
    """A connection to one server of a pool."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        super().__init__("mail")

    def _get_socket(self, host: str, port: int, timeout: float | None) -> socket.socket:
        return l4.create_connection(self.pool)


mailboxes = [Mailbox(), Mailbox()]
servers = [Controller(mailbox, hostname="127.0.0.1", port=free_port()) for mailbox in mailboxes]
for server in servers:
    server.start()
try:
    pool = Pool([f"tcp://127.0.0.1:{server.port}" for server in servers], algorithm="round_robin")
    for number in range(4):
        with BalancedSMTP(pool) as smtp:
            smtp.sendmail("me@example.com", ["you@example.com"], f"Subject: letter {number}\r\n\r\nhello\r\n")
    print("letters:", [len(mailbox.letters) for mailbox in mailboxes])
    assert [len(mailbox.letters) for mailbox in mailboxes] == [2, 2]
    servers[0].stop()
    with BalancedSMTP(pool) as smtp:
        smtp.sendmail("me@example.com", ["you@example.com"], "Subject: one more\r\n\r\nhello\r\n")
    print("letters, one server down:", [len(mailbox.letters) for mailbox in mailboxes])
    assert len(mailboxes[1].letters) == 3
finally:
    servers[1].stop()
