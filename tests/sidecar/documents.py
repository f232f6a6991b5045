"""Configurations to test with."""

from __future__ import annotations

import textwrap
from pathlib import Path

from lbclient.sidecar.configuration import Configuration, understand
from lbclient.sidecar.document import ConfigurationError, Document, Problem

WHOLE = """
listeners:
  - 127.0.0.1:8080
  - {bind: "[::1]:8443", keep_alive: 30s, max_connections: 1000, backlog: 10}
l4:
  - {bind: 127.0.0.1:5432, pool: database}
pools:
  api:
    backends:
      - http://10.0.0.5:8080
      - {url: "http://10.0.0.6:8080", weight: 2.5, zone: a, priority: 1, host: api.test, metadata: {rack: 3}}
    algorithm: {name: ring_hash, key: "header:x-user", points: 40}
    probe: {path: /health, interval: 1m, timeout: 500ms, expect: [200, 204], body: /ok|fine/, headers: {x-probe: me}}
    passive: {consecutive_failures: 3, failure_statuses: [500]}
    affinity: {kind: cookie, secret: 0123456789abcdef, max_age: 1h, samesite: strict}
    retry: {attempts: 2, backoff: 10ms, max_backoff: 1s, methods: [GET], budget: {ratio: 0.5}}
    hedge: {delay: p99, budget: 0.1}
    slow_start: 30
    max_in_flight: 100
    max_requests: 500
    max_pending: 0
    preserve_host: on
    shared: api
    zone: a
    connect: {verify: off, max_connections: null, socket_options: [[SOL_SOCKET, SO_KEEPALIVE, 1], [6, 1, 1]]}
  green: {backends: [http://10.0.0.7:8080], passive: off, retry: off, probe: {kind: tcp, interval: 20}}
  database: {backends: ["tcp://10.0.0.9:5432"]}
splits:
  canary: {weights: {api: 95, green: 5}, sticky: true, secret: [0123456789abcdef, fedcba9876543210]}
routes:
  - path: /api/*
    methods: [get]
    headers: {x-beta: true, x-id: {regex: "[0-9]+"}}
    cookies: {side: left}
    to: canary
default: green
admin: {bind: "unix:/tmp/lbclient-admin.sock"}
access_log: off
log_level: warning
reload: {watch: off}
shutdown: {delay: 2, grace: 5m}
"""


def configuration(text: str, home: Path = Path("/")) -> Configuration:
    """What a text says."""
    return understand(Document(textwrap.dedent(text), "sidecar.yaml"), home)


def problems(text: str, home: Path = Path("/")) -> tuple[Problem, ...]:
    """What is wrong with it."""
    try:
        configuration(text, home)
    except ConfigurationError as exc:
        return exc.problems
    return ()
