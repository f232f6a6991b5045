"""The transports for httpx2. Backends, pools, algorithms and all else are those of `lbclient`.

client = httpx2.AsyncClient(transport=lbclient.httpx2.AsyncBalancedTransport(["http://10.0.0.5:8080"]))
"""

from importlib.util import find_spec

if find_spec("httpx2") is None:
    raise ImportError(
        "lbclient.httpx2 needs the package httpx2; install it with: pip install 'lbclient[httpx2]'. "
        "For httpx, the transports are lbclient.AsyncBalancedTransport and lbclient.BalancedTransport",
        name="httpx2",
    )

from lbclient.httpx2._async.transport import AsyncBalancedTransport
from lbclient.httpx2._sync.transport import BalancedTransport

__all__ = ["AsyncBalancedTransport", "BalancedTransport"]
