"""Where the backends of a pool come from, when the configuration does not list them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict, Field, ValidationInfo, model_validator

from lbclient.core.source import Source
from lbclient.discovery import Consul, Debounce, Dns, Etcd, File, Filter, Kubernetes, MinimumSize, Subset
from lbclient.sidecar.section import Built, Count, Seconds, Section, as_seconds, home_of, secret_text

KINDS: Mapping[str, type[Source]] = {
    "consul": Consul,
    "dns": Dns,
    "etcd": Etcd,
    "file": File,
    "kubernetes": Kubernetes,
}
PATHS = {"file": ("path",), "kubernetes": ("kubeconfig",)}
"""Options that are paths of files, by kind: relative to the configuration's directory."""
SECRETS = ("password", "token")


class FilterSection(Section):
    """Which backends are kept."""

    zone: str | None = None
    """Those of this zone."""
    metadata: dict[str, Any] | None = None
    """Those that have all of this."""


class SubsetSection(Section):
    """A few of many backends for each client."""

    size: Count
    """How many."""
    client: str | Annotated[int, Field(ge=0)] | None = None
    """Who this client is; by default host and process."""


class DebounceSection(Section):
    """One change instead of many."""

    quiet: Seconds = 0.1
    """For so long nothing has to change."""
    at_most: Seconds = 1.0
    """After this a change is taken in any case."""


class DiscoverySection(Built):
    """A source of backends: its kind, its own options beside it, and what is done with what it says."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["consul", "dns", "etcd", "file", "kubernetes"]
    """What is asked."""
    filter: FilterSection | None = None
    """Which backends are kept."""
    subset: SubsetSection | None = None
    """A few of many backends for each client."""
    minimum_size: Count | None = None
    """Smaller sets are not believed."""
    debounce: DebounceSection | None = None
    """One change instead of many."""

    @model_validator(mode="before")
    @classmethod
    def _from_elsewhere(cls, value: object, info: ValidationInfo) -> object:
        """Paths, from the configuration's directory; and secrets, from where they are kept."""
        if not isinstance(value, dict):
            return value
        found = dict(cast("dict[str, Any]", value))
        for name in PATHS.get(str(found.get("kind")), ()):
            if isinstance(found.get(name), str):
                found[name] = str(home_of(info) / found[name])
        for name in SECRETS:
            if name in found:
                found[name] = secret_text(found[name], info)
        return found

    def build(self) -> Source:
        """The source."""
        made = KINDS[self.kind]
        known = inspect.signature(made).parameters
        options = dict(self.model_extra or {})
        for name, value in options.items():
            if name not in known:
                raise ValueError(
                    f"{name} is no option of kind {self.kind!r}; write one of: {', '.join(known)}"
                )
            if "float" in str(known[name].annotation):
                options[name] = as_seconds(value)
        source: Source = made(**options)
        if self.filter is not None:
            source = Filter(source, **self.filter.given())
        if self.minimum_size is not None:
            source = MinimumSize(source, self.minimum_size)
        if self.subset is not None:
            source = Subset(source, **self.subset.given())
        return source if self.debounce is None else Debounce(source, **self.debounce.given())
