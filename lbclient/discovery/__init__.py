"""Where backends come from: sources, which tell a pool who there is, and decorators around them.

pool = Pool(Subset(Filter(File("backends.yaml"), zone="a"), size=20))
"""

from lbclient.core.source import Source, Trouble
from lbclient.core.status import SourceStatus
from lbclient.discovery.consul import Consul
from lbclient.discovery.debounce import Debounce
from lbclient.discovery.dns import Dns
from lbclient.discovery.etcd import Etcd
from lbclient.discovery.file import File
from lbclient.discovery.filter import Filter
from lbclient.discovery.kubernetes import Kubernetes
from lbclient.discovery.minimum import MinimumSize
from lbclient.discovery.static import Static
from lbclient.discovery.subset import Subset

__all__ = [
    "Consul",
    "Debounce",
    "Dns",
    "Etcd",
    "File",
    "Filter",
    "Kubernetes",
    "MinimumSize",
    "Source",
    "SourceStatus",
    "Static",
    "Subset",
    "Trouble",
]
