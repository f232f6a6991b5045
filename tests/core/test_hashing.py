import subprocess
import sys

import pytest

from lbclient.core.hashing import stable64, stable64_stream, xxh64


def test_a_stable_hash_is_the_same_everywhere() -> None:
    assert stable64(b"10.0.0.1:80") == 7746398260884584976
    assert stable64_stream(b"10.0.0.1:80", 2) == [16146835323171789461, 3837629328194343756]
    program = "from lbclient.core.hashing import stable64; print(stable64(b'10.0.0.1:80'))"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(other.stdout) == stable64(b"10.0.0.1:80")


def test_a_longer_stream_begins_with_the_shorter_one() -> None:
    long = stable64_stream(b"name", 100)
    assert len(set(long)) == 100
    for count in (0, 1, 8, 9, 99):
        assert stable64_stream(b"name", count) == long[:count]
    assert stable64_stream(b"name2", 8) != long[:8]


def test_xxh64_is_the_optional_package_s() -> None:
    pytest.importorskip("xxhash")
    assert xxh64("this test")(b"") == 0xEF46DB3751D8E999  # the algorithm's own test vector
    assert xxh64("this test")(b"", 1) != xxh64("this test")(b"")


def test_without_the_package_the_message_says_who_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xxhash", None)
    with pytest.raises(ImportError, match=r"^this test hashes with xxHash64, as Envoy does; install it with"):
        xxh64("this test")
