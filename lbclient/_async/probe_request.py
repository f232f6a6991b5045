"""A probe as a request: to whom, with which headers, and how much of the answer is looked at."""

from __future__ import annotations

from lbclient.core.backend import Backend
from lbclient.core.probes import HttpProbe, Probe

LOOKED_AT_BYTES = 1 << 20
CLOSE_WITHIN = 1.0  # seconds


def as_seen_by(probe: Probe, backend: Backend) -> Backend:
    """The backend as the probe sees it: the scheme and the port that the probe names, and no path prefix."""
    scheme = "https" if backend.scheme == "https" else "http"
    host = backend.host
    if isinstance(probe, HttpProbe):
        scheme = probe.scheme or scheme
        host = probe.host or host
    name = f"[{backend.hostname}]" if ":" in backend.hostname else backend.hostname
    return Backend(f"{scheme}://{name}:{probe.port or backend.port}", host=host, uds=backend.uds)


def headers_of(seen: Backend, probe: HttpProbe) -> list[tuple[str, str]]:
    """The probe's own headers, behind those of ours that it does not replace."""
    ours = [("Host", seen.host or seen.authority), ("User-Agent", _user_agent()), ("Accept", "*/*")]
    if probe.method in ("PATCH", "POST", "PUT"):
        ours.append(("Content-Length", "0"))  # RFC 9110, section 8.6: a body could be expected
    replaced = {name.lower() for name, _ in probe.header_pairs}
    return [pair for pair in ours if pair[0].lower() not in replaced] + list(probe.header_pairs)


def _user_agent() -> str:
    from lbclient import __version__  # not above: lbclient imports this module

    return f"lbclient-probe/{__version__}"
