"""The configuration file: all of lbclient's options, and errors that say where and what to write."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tenacity.stop import stop_after_attempt
from tenacity.wait import wait_random_exponential

from lbclient import (
    AppCookieAffinity,
    Backend,
    Connect,
    CookieAffinity,
    Facts,
    Hedge,
    HttpProbe,
    KeyAffinity,
    PassiveHealth,
    Pool,
    Retry,
    RetryBudget,
    Split,
    TcpProbe,
)
from lbclient.algorithms import RingHash
from lbclient.cli import main
from lbclient.discovery import Debounce, Dns
from lbclient.sidecar import policies
from lbclient.sidecar import pools as sections
from lbclient.sidecar.configuration import Configuration, SplitSection, read
from lbclient.sidecar.document import ConfigurationError, Document
from lbclient.sidecar.listeners import Address
from lbclient.sidecar.section import Section
from tests.servers import CertFiles
from tests.servers.process import ROOT
from tests.sidecar.documents import WHOLE, configuration, problems
from tests.sidecar.mistakes import MISTAKES, POOL

ONE_POOL = "listeners: [':8080']\npools: {api: {backends: ['http://10.0.0.5:80']}}\n"


# What can be said


@pytest.mark.parametrize(
    ("section", "described", "otherwise"),
    [
        (sections.BackendSection, Backend, {}),
        (policies.ProbeSection, HttpProbe, {"kind": ""}),
        (policies.ProbeSection, TcpProbe, None),
        (policies.PassiveSection, PassiveHealth, {}),
        (policies.BudgetSection, RetryBudget, {}),
        (policies.RetrySection, Retry, {"attempts": "stop", "backoff": "wait", "max_backoff": "wait"}),
        (policies.HedgeSection, Hedge, {}),
        (sections.ConnectSection, Connect, {}),
        (sections.AffinitySection, CookieAffinity, None),
        (sections.AffinitySection, AppCookieAffinity, None),
        (sections.AffinitySection, KeyAffinity, None),
        (sections.PoolSection, Pool, {"discovery": "backends"}),
        (SplitSection, Split, {}),
    ],
)
def test_every_option_can_be_written(
    section: type[Section], described: Any, otherwise: dict[str, str] | None
) -> None:
    """`otherwise`: options that have another name in the file; None where a section describes several things."""
    not_for_a_file = {"name", "clock", "cost", "rng", "self"}  # functions, and what the file says by a key
    options = set(inspect.signature(described).parameters) - not_for_a_file
    names = otherwise or {}
    written = {names.get(name, name) for name in section.model_fields} - {""}
    assert options <= written
    if otherwise is not None:
        assert written == options


@pytest.mark.parametrize(
    ("section", "described"),
    [
        (policies.ProbeSection, HttpProbe),
        (policies.PassiveSection, PassiveHealth),
        (policies.BudgetSection, RetryBudget),
        (policies.HedgeSection, Hedge),
        (sections.ConnectSection, Connect),
        (policies.RetrySection, Retry),
        (sections.PoolSection, Pool),
        (SplitSection, Split),
    ],
)
def test_the_defaults_that_the_schema_shows_are_those_of_the_library(
    section: type[Section], described: Any
) -> None:
    for name, parameter in inspect.signature(described).parameters.items():
        field = section.model_fields.get(name)
        if (
            field is None
            or isinstance(parameter.default, Retry | PassiveHealth)
            or name in ("connect", "budget", "passive")
        ):
            continue
        default = field.default
        if name == "algorithm":
            assert default is None
        elif isinstance(parameter.default, frozenset | tuple):
            assert set(default) == set(parameter.default), name
        elif parameter.default is not inspect.Parameter.empty:
            assert default == parameter.default, name


def test_what_is_left_out_is_the_librarys_own_default() -> None:
    pool = configuration(ONE_POOL).pools["api"].build("api")
    plain = Pool(["http://10.0.0.5:80"])
    for name in ("passive", "connect", "probe", "hedging", "affinity"):
        assert getattr(pool, name) == getattr(plain, name)
    assert type(pool.algorithm) is type(plain.algorithm)
    assert (pool.retry, pool.budget is not None) == (plain.retry, True)


def test_a_pool_is_made_as_it_is_written() -> None:
    written = configuration(WHOLE)
    pool = written.pools["api"].build("api")
    assert pool.declared == (
        Backend("http://10.0.0.5:8080"),
        Backend(
            "http://10.0.0.6:8080", weight=2.5, zone="a", priority=1, host="api.test", metadata={"rack": 3}
        ),
    )
    assert pool.algorithm == RingHash(key="header:x-user", points=40)
    assert pool.probe == HttpProbe(
        "/health",
        interval=60,
        timeout=0.5,
        expect=[200, 204],
        body=re.compile("ok|fine"),
        headers={"x-probe": "me"},
    )
    assert pool.passive == PassiveHealth(consecutive_failures=3, failure_statuses=[500])
    assert isinstance(pool.affinity, CookieAffinity)
    assert (pool.affinity.max_age, pool.affinity.samesite) == (3600, "strict")
    assert pool.retry is not None
    assert isinstance(pool.retry.stop, stop_after_attempt)
    assert isinstance(pool.retry.wait, wait_random_exponential)
    assert (pool.retry.most_attempts, pool.retry.wait.multiplier, pool.retry.wait.max) == (2, 0.01, 1)
    assert (pool.retry.methods, pool.retry.budget) == (["GET"], RetryBudget(ratio=0.5))
    assert pool.hedging is not None
    assert pool.hedging.policy == Hedge(delay="p99", budget=0.1)
    assert (pool.max_in_flight, pool.max_requests, pool.zone, pool.preserve_host) == (100, 500, "a", True)
    assert pool.connect.verify is False
    assert pool.connect.max_connections is None
    assert pool.connect.socket_options == [(1, 9, 1), (6, 1, 1)]
    green = written.pools["green"].build("green")
    assert (green.passive, green.retry, green.probe) == (None, None, TcpProbe(interval=20))


def test_a_router_is_made_as_it_is_written() -> None:
    written = configuration(WHOLE)
    pools = {name: pool.build(name) for name, pool in written.pools.items()}
    splits = {name: split.build(name, pools) for name, split in written.splits.items()}
    router = written.router(pools, splits)
    assert router is not None
    assert "LBCLIENT-SPLIT" in router.route(Facts("GET", "any", b"/api/1")).strip
    headers = [(b"x-beta", b"1"), (b"x-id", b"42"), (b"cookie", b"side=left")]
    sides = {router.route(Facts("GET", "any", b"/api/1", headers)).pool.name for _ in range(20)}
    assert sides == {"api", "green"}
    assert {router.route(Facts("POST", "any", b"/api/1", headers)).pool.name for _ in range(20)} == {"green"}
    headers[1] = (b"x-id", b"42a")
    assert {router.route(Facts("GET", "any", b"/api/1", headers)).pool.name for _ in range(20)} == {"green"}


def test_a_single_pool_needs_no_routes() -> None:
    assert configuration(ONE_POOL).entry == "api"
    only_l4 = configuration(
        "l4: [{bind: ':53', protocol: udp, pool: dns}]\npools: {dns: {backends: ['udp://10.0.0.1:53']}}"
    )
    assert only_l4.router({"dns": only_l4.pools["dns"].build()}, {}) is None


def test_an_affinity_without_a_secret_takes_the_one_it_is_given() -> None:
    section = sections.AffinitySection(kind="cookie")
    facts = Facts()
    header = section.build("0123456789abcdef").answer(facts, "http://a", [], 0)
    assert header is not None
    cookie = header[1].partition(b";")[0]
    returning = Facts(headers=[(b"cookie", cookie)])
    assert section.build("0123456789abcdef").tie(returning, {"http://a": 1}, 0) == "http://a"
    assert section.build("fedcba9876543210").tie(returning, {"http://a": 1}, 0) is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", Address("tcp", "127.0.0.1", 80)),
        ("[::1]:80", Address("tcp", "::1", 80)),
        (":80", Address("tcp", "", 80)),
        ("localhost:0", Address("tcp", "localhost", 0)),
        ("unix:/run/a.sock", Address("unix", path="/run/a.sock")),
        ("fd:3", Address("fd", fd=3)),
    ],
)
def test_addresses_are_read_and_written(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["80", "::1:80", "a:b", "a:70000", "unix:", "fd:x", "http://a:80", ""])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write 'HOST:PORT'"):
        Address.parse(text)


def test_anchors_and_merge_keys_can_be_used() -> None:
    written = configuration(
        """
        listeners: [':8080']
        pools:
          a: &base {backends: ['http://10.0.0.5:80'], slow_start: 5}
          b: {<<: *base, max_pending: 3}
        routes: [{path: /a/*, to: a}]
        default: b
        """
    )
    assert (written.pools["b"].slow_start, written.pools["b"].max_pending) == (5, 3)
    assert written.pools["b"].backends == written.pools["a"].backends


def test_a_source_is_made_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    pool = configuration(
        """
        listeners: [':8080']
        pools:
          api:
            initial: [http://10.0.0.1:80]
            discovery:
              kind: file
              path: fleet.yaml
              interval: 500ms
              filter: {zone: a}
              subset: {size: 3, client: me}
              minimum_size: 2
              debounce: {quiet: 50ms}
          names:
            discovery: {kind: dns, name: shop.example, port: 8080, path: /api}
          pods:
            discovery: {kind: kubernetes, service: blue/shop, port: http, kubeconfig: kube.yaml}
          checked:
            discovery: {kind: consul, service: shop, tags: [v2], wait: 1m, token: {file: token}}
          keys:
            discovery: {kind: etcd, prefix: /shop/, endpoints: ["http://127.0.0.1:2379"]}
        routes:
        - {path: /names, to: names}
        - {path: /pods, to: pods}
        - {path: /checked, to: checked}
        - {path: /keys, to: keys}
        default: api
        """,
        tmp_path,
    ).pools
    source = pool["api"].members()
    assert isinstance(source, Debounce)
    words = str(source)
    assert f"file {tmp_path}/fleet.yaml" in words
    assert [backend.url for backend in pool["api"].build().declared] == ["http://10.0.0.1:80"]
    assert isinstance(pool["names"].members(), Dns)
    others = {name: str(pool[name].members()) for name in ("pods", "checked", "keys")}
    assert others == {
        "pods": "Kubernetes service blue/shop:http",
        "checked": "Consul service shop",
        "keys": "etcd /shop/",
    }


def test_the_example_in_the_docs_can_be_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server_cert_files: CertFiles
) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "sidecar.md").read_text(), re.DOTALL)
    monkeypatch.setenv("SHOP_COOKIE_SECRET", "0123456789abcdef")
    (tmp_path / "canary").write_text("0123456789abcdef")
    for written, here in (
        ("/etc/tls/shop.pem", server_cert_files.cert),
        ("/etc/tls/shop.key", server_cert_files.key),
        ("/run/secrets/canary", str(tmp_path / "canary")),
    ):
        assert written in example
        example = example.replace(written, here)
    assert set(configuration(example).pools) == {"shop", "shop-next", "api"}


# Secrets


def test_secrets_come_from_the_environment_or_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("a-token-of-some-length\n")
    monkeypatch.setenv("SIDECAR_SECRET", "0123456789abcdef0123")
    text = ONE_POOL.replace("]}}", "], affinity: {kind: cookie, secret: {env: SIDECAR_SECRET}}}}")
    written = configuration(text + "admin: {bind: '0.0.0.0:1', token: {file: token}}", tmp_path)
    affinity = written.pools["api"].affinity
    assert affinity is not None
    assert affinity.secret == "0123456789abcdef0123"
    assert written.admin is not None
    assert written.admin.token == "a-token-of-some-length"
    assert "a-token" not in repr(written)
    assert "0123456789" not in repr(written)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{env: NOT_SET_ANYWHERE}", "the environment variable NOT_SET_ANYWHERE is not set"),
        ("{file: nothing-here}", "cannot be read"),
        ("{file: empty}", "is empty"),
        ("{vault: x}", "write the text itself, {env: NAME} or {file: PATH}"),
        ("42", "is not shown here; write text"),
        ("hunter2", "token has fewer than 16 characters"),
    ],
)
def test_a_secret_that_is_none_is_refused_and_not_shown(source: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (found,) = problems(f"{ONE_POOL}admin: {{token: {source}}}", tmp_path)
    assert words in found.message
    assert "hunter2" not in str(found)


# What is wrong, and where


@pytest.mark.parametrize(
    ("text", "line", "place", "words"),
    MISTAKES,
)
def test_an_error_names_the_line_and_what_to_write(text: str, line: int, place: str, words: str) -> None:
    found = problems(text)
    assert found
    assert (found[0].line, found[0].place) == (line, place), found
    assert words in found[0].message
    assert str(found[0]).startswith(f"sidecar.yaml:{line}: ")


def test_all_errors_are_told_at_once_in_the_order_of_their_lines() -> None:
    found = problems(POOL + "    algorithm: robin\n    fail_open: maybe\nlog_level: loud\n")
    assert [problem.line for problem in found] == [6, 7, 8]


def test_a_file_that_cannot_be_read_is_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml:1: cannot be read: No such file"):
        read(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read(tmp_path / "binary.yaml")


# TLS


def test_certificates_are_checked_with_the_configuration(tmp_path: Path) -> None:
    text = POOL.replace("[':8080']", "[{bind: ':8443', tls: {certificate: cert.pem, key: key.pem}}]")
    (found,) = problems(text, tmp_path)
    assert (found.line, found.place) == (1, "listeners[0].tls")
    assert "cert.pem" in found.message
    assert "cannot be used" in found.message


# Schema and commands


def test_the_schema_takes_what_the_sidecar_takes() -> None:
    schema = json.loads(json.dumps(Configuration.model_json_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(WHOLE.replace("off", "null").replace("verify: null", "verify: false")
                                       .replace("watch: null", "watch: false")), schema)  # fmt: skip
    jsonschema.validate(yaml.safe_load(ONE_POOL), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(ONE_POOL.replace("backends", "servers")), schema)


def test_the_schema_explains_every_field() -> None:
    schema = Configuration.model_json_schema()
    unexplained = [
        f"{name}.{field}"
        for name, definition in schema["$defs"].items()
        for field, about in definition.get("properties", {}).items()
        if "description" not in about
    ]
    assert unexplained == []


def test_check_says_that_all_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_text(WHOLE)
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: all right: 3 listeners, 1 route, 3 pools, 4 backends\n"


def test_check_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_text(POOL + "log_level: loud")
    assert main(["check", str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"{path}:6: log_level: is 'loud'; write ")


def test_schema_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["pools"]


@pytest.mark.parametrize("argv", [["schema"], ["check", "a.yaml"]])
def test_a_missing_extra_is_named(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pydantic" else object())
    assert main(argv) == 2
    assert (
        "needs pydantic; install the extra with: pip install 'lbclient[sidecar]'" in capsys.readouterr().err
    )


def test_a_document_can_be_followed_as_far_as_it_goes() -> None:
    document = Document("a:\n  - b: 1\n", "x.yaml")
    assert document.find(("a", 0, "b")) == (("a", 0, "b"), 2, 1)
    assert document.find(("a", "function-wrap", 0, "c")) == (("a", 0), 2, {"b": 1})
