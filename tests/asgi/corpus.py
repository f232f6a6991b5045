"""Requests that are malformed, ambiguous or merely unusual: what proxies have been confused by.

Every request has `{case}` in its target or its headers, by which it is found again at a backend. A request for
`/smuggled` stands where only somebody who misreads the framing takes it for a request.
"""

from __future__ import annotations

HIDDEN = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKS = "3\r\nabc\r\n0\r\n\r\n"


def _get(*lines: str, first: str = "GET /{case} HTTP/1.1") -> str:
    return "\r\n".join([first, "Host: h", *lines, "", ""])


def _post(*lines: str, body: str = "", version: str = "1.1") -> str:
    return "\r\n".join([f"POST /{{case}} HTTP/{version}", "Host: h", *lines, "", body])


def _request_lines() -> dict[str, str]:
    lines = {
        "no version": "GET /{case}",
        "version 0.9": "GET /{case} HTTP/0.9",
        "version 1.0": "GET /{case} HTTP/1.0",
        "version 1.2": "GET /{case} HTTP/1.2",
        "version 1.10": "GET /{case} HTTP/1.10",
        "version 2.0": "GET /{case} HTTP/2.0",
        "version 3.0": "GET /{case} HTTP/3.0",
        "version 1": "GET /{case} HTTP/1",
        "version 1,1": "GET /{case} HTTP/1,1",
        "version +1.1": "GET /{case} HTTP/+1.1",
        "lower case version": "GET /{case} http/1.1",
        "version of another protocol": "GET /{case} FTP/1.1",
        "version with space": "GET /{case} HTTP/ 1.1",
        "space after version": "GET /{case} HTTP/1.1 ",
        "tab after version": "GET /{case} HTTP/1.1\t",
        "words after version": "GET /{case} HTTP/1.1 x",
        "two spaces before target": "GET  /{case} HTTP/1.1",
        "two spaces before version": "GET /{case}  HTTP/1.1",
        "tab before target": "GET\t/{case} HTTP/1.1",
        "tab before version": "GET /{case}\tHTTP/1.1",
        "vertical tab": "GET\x0b/{case} HTTP/1.1",
        "form feed": "GET\x0c/{case} HTTP/1.1",
        "space before method": " GET /{case} HTTP/1.1",
        "no method": "/{case} HTTP/1.1",
        "lower case method": "get /{case} HTTP/1.1",
        "unknown method": "FROBNICATE /{case} HTTP/1.1",
        "method with slash": "GE/T /{case} HTTP/1.1",
        "method with colon": "GET: /{case} HTTP/1.1",
        "method with parenthesis": "GE(T /{case} HTTP/1.1",
        "method with nul": "GE\0T /{case} HTTP/1.1",
        "method in quotes": '"GET" /{case} HTTP/1.1',
        "long method": "G" * 300 + " /{case} HTTP/1.1",
        "CONNECT authority": "CONNECT {case}:443 HTTP/1.1",
        "CONNECT path": "CONNECT /{case} HTTP/1.1",
        "TRACE": "TRACE /{case} HTTP/1.1",
        "PRI": "PRI * HTTP/2.0",
        "OPTIONS asterisk": "OPTIONS * HTTP/1.1",
        "GET asterisk": "GET * HTTP/1.1",
        "target with space": "GET /{case} x HTTP/1.1",
        "target with nul": "GET /{case}\0 HTTP/1.1",
        "target with bell": "GET /{case}\x07 HTTP/1.1",
        "target with delete": "GET /{case}\x7f HTTP/1.1",
        "target with cr": "GET /{case}\rx HTTP/1.1",
        "target with latin-1": "GET /{case}\xe9 HTTP/1.1",
        "target with fragment": "GET /{case}#x HTTP/1.1",
        "target without slash": "GET {case} HTTP/1.1",
        "target with backslash": "GET \\{case} HTTP/1.1",
        "backslashes in target": "GET /a\\..\\{case} HTTP/1.1",
        "dots": "GET /a/../{case} HTTP/1.1",
        "dots above the root": "GET /../../{case} HTTP/1.1",
        "encoded dots": "GET /%2e%2e/{case} HTTP/1.1",
        "encoded slash": "GET /a%2f{case} HTTP/1.1",
        "encoded nul": "GET /{case}%00 HTTP/1.1",
        "encoded crlf": "GET /{case}%0d%0aX:%20y HTTP/1.1",
        "bad percent": "GET /{case}%zz HTTP/1.1",
        "half a percent": "GET /{case}% HTTP/1.1",
        "overlong utf-8": "GET /{case}%c0%ae HTTP/1.1",
        "double slash": "GET //{case} HTTP/1.1",
        "quote and angle": 'GET /{case}"<> HTTP/1.1',
        "pipe and braces": "GET /{case}|{{}} HTTP/1.1",
        "query with question marks": "GET /{case}?a?b?? HTTP/1.1",
        "long target": "GET /{case}" + "a" * 4000 + " HTTP/1.1",
        "huge target": "GET /{case}" + "a" * 70_000 + " HTTP/1.1",
        "absolute": "GET http://h/{case} HTTP/1.1",
        "absolute with another host": "GET http://other/{case} HTTP/1.1",
        "absolute with user": "GET http://user@h/{case} HTTP/1.1",
        "absolute without path": "GET http://h?{case} HTTP/1.1",
        "absolute upper case": "GET HTTP://H/{case} HTTP/1.1",
        "absolute of another scheme": "GET ftp://h/{case} HTTP/1.1",
        "absolute without host": "GET http:///{case} HTTP/1.1",
        "absolute with a bad port": "GET http://h:99999/{case} HTTP/1.1",
        "absolute with one slash": "GET http:/h/{case} HTTP/1.1",
    }
    return {f"request line: {name}": _get(first=line) for name, line in lines.items()} | {
        "request line: empty lines before": "\r\n\r\n" + _get(),
        "request line: bare lf before": "\n" + _get(),
        "request line: space line before": " \r\n" + _get(),
        "request line: ended by lf": "GET /{case} HTTP/1.1\nHost: h\r\n\r\n",
        "request line: ended by cr": "GET /{case} HTTP/1.1\rHost: h\r\n\r\n",
        "request line: ended by lf cr": "GET /{case} HTTP/1.1\n\rHost: h\r\n\r\n",
        "request line: nothing else": "GET /{case} HTTP/1.1\r\n\r\n",
        "request line: 0.9 and headers": "GET /{case}\r\nHost: h\r\n\r\n",
    }


def _hosts() -> dict[str, str]:
    hosts = {
        "none": [],
        "empty": ["Host:"],
        "twice": ["Host: h", "Host: h"],
        "two": ["Host: h", "Host: other"],
        "list": ["Host: h, other"],
        "space inside": ["Host: h other"],
        "user": ["Host: user@h"],
        "path": ["Host: h/x"],
        "query": ["Host: h?x"],
        "fragment": ["Host: h#x"],
        "scheme": ["Host: http://h"],
        "backslash": ["Host: h\\x"],
        "bad port": ["Host: h:port"],
        "port out of range": ["Host: h:99999"],
        "negative port": ["Host: h:-1"],
        "two ports": ["Host: h:80:80"],
        "empty port": ["Host: h:"],
        "open bracket": ["Host: [::1"],
        "close bracket": ["Host: ::1]"],
        "bare ipv6": ["Host: ::1"],
        "nul": ["Host: h\0"],
        "latin-1": ["Host: h\xe9"],
        "dots": ["Host: .."],
        "percent": ["Host: h%00"],
        "quote": ['Host: "h"'],
        "angle": ["Host: <h>"],
        "space before colon": ["Host : h"],
        "tab before colon": ["Host\t: h"],
        "folded": ["Host:", " h"],
        "underscore name": ["Host_: h"],
    }
    return {
        f"host: {name}": "\r\n".join(["GET /{case} HTTP/1.1", *lines, "", ""])
        for name, lines in hosts.items()
    } | {"host: none in 1.0": "GET /{case} HTTP/1.0\r\n\r\n"}


def _headers() -> dict[str, str]:
    lines = {
        "no colon": ["X-A"],
        "no name": [": value"],
        "empty line of spaces": ["   "],
        "space before colon": ["X-A : b"],
        "tab before colon": ["X-A\t: b"],
        "space in name": ["X A: b"],
        "nul in name": ["X\0A: b"],
        "cr in name": ["X\rA: b"],
        "latin-1 in name": ["X\xe9: b"],
        "parenthesis in name": ["X(A): b"],
        "slash in name": ["X/A: b"],
        "at in name": ["X@A: b"],
        "quote in name": ['"X": b'],
        "underscore in name": ["X_A: b"],
        "control in name": ["X\x01A: b"],
        "delete in name": ["X\x7fA: b"],
        "nul in value": ["X-A: a\0b"],
        "cr in value": ["X-A: a\rb"],
        "cr at the end of a value": ["X-A: a\r"],
        "lf in value": ["X-A: a\nX-B: b"],
        "bell in value": ["X-A: a\x07b"],
        "delete in value": ["X-A: a\x7fb"],
        "latin-1 in value": ["X-A: \xe9"],
        "vertical tab in value": ["X-A: a\x0bb"],
        "tab in value": ["X-A: a\tb"],
        "no space before value": ["X-A:b"],
        "spaces around value": ["X-A:   b   "],
        "empty value": ["X-A:"],
        "first folded": [],
        "folded": ["X-A: a", " b"],
        "folded by tab": ["X-A: a", "\tb"],
        "folded into nothing": ["X-A: a", " "],
        "colon in value": ["X-A: b:c"],
        "long name": ["X" * 4000 + ": a"],
        "long value": ["X-A: " + "a" * 4000],
        "huge value": ["X-A: " + "a" * 70_000],
        "many": [f"X-{index}: a" for index in range(120)],
        "very many": [f"X-{index}: a" for index in range(1200)],
        "spoofed forwarding": ["X-Forwarded-For: 1.1.1.1", "Forwarded: for=1.1.1.1"],
        "expect unknown": ["Expect: 200-ok"],
        "upgrade to h2c": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"],
        "upgrade to nonsense": ["Connection: Upgrade", "Upgrade: nonsense"],
        "upgrade without connection": ["Upgrade: websocket"],
        "websocket without key": ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"],
        "connection names host": ["Connection: Host"],
        "connection names length": ["Connection: Content-Length"],
        "connection names coding": ["Connection: Transfer-Encoding"],
        "connection with nonsense": ["Connection: ,,;="],
        "te": ["TE: trailers, deflate;q=0.5"],
        "proxy-connection": ["Proxy-Connection: keep-alive"],
    }
    found = {f"header: {name}": _get(*more) for name, more in lines.items()}
    found["header: first folded"] = "GET /{case} HTTP/1.1\r\n Host: h\r\nHost: h\r\n\r\n"
    found["header: lines ended by lf"] = "GET /{case} HTTP/1.1\nHost: h\nX-A: b\n\n"
    found["header: block ended by lf"] = "GET /{case} HTTP/1.1\r\nHost: h\r\n\n"
    found["header: block ended by cr"] = "GET /{case} HTTP/1.1\r\nHost: h\r\n\rX"
    found["header: one line ended by lf"] = "GET /{case} HTTP/1.1\r\nHost: h\nX-A: b\r\n\r\n"
    return found


def _lengths() -> dict[str, str]:
    values = [
        "+3", "-3", "-0", "0x3", "3.0", "3e0", "1_0", "3 3", "3,3", "3, 3", "3,4", "3;", "3;x=y", "three", "", "''",
        '"3"', "3\0", "3\x0b", "\x0b3", "\xb3", "0003", "99999999999999999999", "18446744073709551619", "4294967299",
        "3, ", ",3", "3\t", "\t3", "NaN", "infinity", "0b11", "0o3", "3L",
    ]  # fmt: skip
    found = {f"length: {value!r}": _post(f"Content-Length: {value}", body="abc") for value in values}
    lines = {
        "same twice": ["Content-Length: 3", "Content-Length: 3"],
        "two": ["Content-Length: 3", "Content-Length: 4"],
        "zero and three": ["Content-Length: 0", "Content-Length: 3"],
        "lower and upper case": ["content-length: 3", "CONTENT-LENGTH: 4"],
        "space before colon": ["Content-Length : 3"],
        "tab before colon": ["Content-Length\t: 3"],
        "folded": ["Content-Length:", " 3"],
        "folded on": ["Content-Length: 3", " 4"],
        "underscore": ["Content_Length: 3"],
        "nul in name": ["Content\0-Length: 3"],
        "and underscore": ["Content-Length: 3", "Content_Length: 4"],
    }
    found |= {f"length: {name}": _post(*more, body="abc") for name, more in lines.items()}
    found["length: none"] = _post()
    found["length: of a GET"] = _get("Content-Length: 3") + "abc"
    found["length: of a HEAD"] = _get("Content-Length: 3", first="HEAD /{case} HTTP/1.1") + "abc"
    found["length: in 1.0"] = _post("Content-Length: 3", version="1.0", body="abc")
    found["length: hides a request"] = _post(f"Content-Length: {len(HIDDEN)}", body=HIDDEN)
    found["length: zero hides a request from 3,0"] = _post(f"Content-Length: 0, {len(HIDDEN)}", body=HIDDEN)
    found["length: twice hides a request"] = _post(
        f"Content-Length: {len(HIDDEN)}", "Content-Length: 0", body=HIDDEN
    )
    found["length: plus hides a request"] = _post(f"Content-Length: +{len(HIDDEN)}", body=HIDDEN)
    found["length: with space hides a request"] = _post(f"Content-Length : {len(HIDDEN)}", body=HIDDEN)
    return found


def _codings() -> dict[str, str]:
    values = [
        "chunked", "Chunked", "CHUNKED", "chunked ", " chunked", "\tchunked", "\x0bchunked", "chunked\x0b",
        "xchunked", "chunkedx", "chunked, chunked", "chunked,chunked", "gzip, chunked", "chunked, gzip", "identity",
        "identity, chunked", "chunked, identity", "cow", "cow, chunked", "chunked;x=y", "chunked; q=1", '"chunked"',
        "chunked\0", "\0chunked", ",chunked", "chunked,", ", ,chunked", "", "compress", "deflate", "trailers",
        "chunked\xa0", "c\thunked", "chun ked",
    ]  # fmt: skip
    found = {f"coding: {value!r}": _post(f"Transfer-Encoding: {value}", body=CHUNKS) for value in values}
    lines = {
        "twice": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        "two": ["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"],
        "chunked and identity": ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        "space before colon": ["Transfer-Encoding : chunked"],
        "tab before colon": ["Transfer-Encoding\t: chunked"],
        "folded": ["Transfer-Encoding:", " chunked"],
        "folded by tab": ["Transfer-Encoding:", "\tchunked"],
        "folded on": ["Transfer-Encoding: chunked", " , identity"],
        "underscore": ["Transfer_Encoding: chunked"],
        "cr before": ["X: y\rTransfer-Encoding: chunked"],
        "lf before": ["X: y\nTransfer-Encoding: chunked"],
        "and a length": ["Transfer-Encoding: chunked", "Content-Length: 13"],
        "after a length": ["Content-Length: 13", "Transfer-Encoding: chunked"],
        "and length zero": ["Transfer-Encoding: chunked", "Content-Length: 0"],
        "identity and a length": ["Transfer-Encoding: identity", "Content-Length: 13"],
        "unknown and a length": ["Transfer-Encoding: cow", "Content-Length: 13"],
        "with space and a length": ["Transfer-Encoding : chunked", "Content-Length: 13"],
        "underscore and a length": ["Transfer_Encoding: chunked", "Content-Length: 13"],
        "named by connection": ["Connection: Transfer-Encoding", "Transfer-Encoding: chunked"],
        "named by connection and a length": [
            "Connection: Transfer-Encoding", "Transfer-Encoding: chunked", "Content-Length: 13",
        ],
    }  # fmt: skip
    found |= {f"coding: {name}": _post(*more, body=CHUNKS) for name, more in lines.items()}
    found["coding: chunked in 1.0"] = _post("Transfer-Encoding: chunked", version="1.0", body=CHUNKS)
    found["coding: of a GET"] = _get("Transfer-Encoding: chunked") + CHUNKS
    for name, coding in (("cl.te", "chunked"), ("cl.te obfuscated", "xchunked"), ("cl.te tab", "\tchunked")):
        found[f"smuggling: {name}"] = _post(
            f"Content-Length: {5 + len(HIDDEN)}", f"Transfer-Encoding: {coding}", body="0\r\n\r\n" + HIDDEN
        )
    found["smuggling: te.cl"] = _post(
        "Transfer-Encoding: chunked", "Content-Length: 4", body=f"{len(HIDDEN):x}\r\n{HIDDEN}\r\n0\r\n\r\n"
    )
    found["smuggling: te.te"] = _post(
        "Transfer-Encoding: chunked", "Transfer-Encoding: cow", f"Content-Length: {5 + len(HIDDEN)}",
        body="0\r\n\r\n" + HIDDEN,
    )  # fmt: skip
    found["smuggling: te in 1.0"] = _post(
        f"Content-Length: {5 + len(HIDDEN)}",
        "Transfer-Encoding: chunked",
        version="1.0",
        body="0\r\n\r\n" + HIDDEN,
    )
    return found


def _chunks() -> dict[str, str]:
    bodies = {
        "leading zeros": "0003\r\nabc\r\n0\r\n\r\n",
        "many zeros at the end": "3\r\nabc\r\n000\r\n\r\n",
        "upper case size": "A\r\n0123456789\r\n0\r\n\r\n",
        "plus": "+3\r\nabc\r\n0\r\n\r\n",
        "minus": "-3\r\nabc\r\n0\r\n\r\n",
        "0x": "0x3\r\nabc\r\n0\r\n\r\n",
        "underscore": "0_3\r\nabc\r\n0\r\n\r\n",
        "space before size": " 3\r\nabc\r\n0\r\n\r\n",
        "space after size": "3 \r\nabc\r\n0\r\n\r\n",
        "tab after size": "3\t\r\nabc\r\n0\r\n\r\n",
        "no size": "\r\nabc\r\n0\r\n\r\n",
        "letters": "xyz\r\nabc\r\n0\r\n\r\n",
        "huge size": "ffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "overflowing size": "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "too long": "3\r\nabcd\r\n0\r\n\r\n",
        "too short": "4\r\nabc\r\n0\r\n\r\n",
        "size ended by lf": "3\nabc\r\n0\r\n\r\n",
        "size ended by cr": "3\rabc\r\n0\r\n\r\n",
        "data ended by lf": "3\r\nabc\n0\r\n\r\n",
        "data ended by nothing": "3\r\nabc0\r\n\r\n",
        "data ended by two bytes": "3\r\nabcXX0\r\n\r\n",
        "last ended by lf": "3\r\nabc\r\n0\n\n",
        "extension": "3;a=b\r\nabc\r\n0\r\n\r\n",
        "quoted extension": '3;a="b;c"\r\nabc\r\n0\r\n\r\n',
        "extension without name": "3;\r\nabc\r\n0\r\n\r\n",
        "extension with lf": "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "extension with cr": "3;a\rb\r\nabc\r\n0\r\n\r\n",
        "extension with nul": "3;a\0b\r\nabc\r\n0\r\n\r\n",
        "extension with crlf in quotes": '3;a="\r\n"\r\nabc\r\n0\r\n\r\n',
        "long extension": "3;" + "a" * 5000 + "\r\nabc\r\n0\r\n\r\n",
        "huge extension": "3;" + "a" * 70_000 + "\r\nabc\r\n0\r\n\r\n",
        "trailer": "3\r\nabc\r\n0\r\nX-T: t\r\n\r\n",
        "trailer that frames": "3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
        "trailer that codes": "3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "trailer without colon": "3\r\nabc\r\n0\r\nX-T\r\n\r\n",
        "trailer that is folded": "3\r\nabc\r\n0\r\nX-T: t\r\n u\r\n\r\n",
        "trailer with nul": "3\r\nabc\r\n0\r\nX-T: \0\r\n\r\n",
        "trailer ended by lf": "3\r\nabc\r\n0\r\nX-T: t\n\r\n",
        "space in last": "3\r\nabc\r\n0 \r\n\r\n",
        "hides a request": f"{len(HIDDEN):x}\r\n{HIDDEN}\r\n0\r\n\r\n",
        "hides a request in an extension": f"3;a=\n{len(HIDDEN):x}\r\nabc\r\n0\r\n\r\n",
        "hides a request behind lf": "3\n\nabc\r\n0\r\n\r\n",
    }
    return {f"chunk: {name}": _post("Transfer-Encoding: chunked", body=body) for name, body in bodies.items()}


CORPUS: dict[str, str] = _request_lines() | _hosts() | _headers() | _lengths() | _codings() | _chunks()
"""By name; latin-1."""


def request(name: str, case: str) -> bytes:
    """The bytes of a request, with something by which it is found again."""
    text = CORPUS[name].replace("{{", "{").replace("}}", "}").replace("{case}", case)
    return text.encode("latin-1")
