"""At each border any bytes give a typed result or a typed error, in time and in memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.borders import BORDERS, CORPUS
from tests.support import PATIENCE

MEMORY = 128 << 20
"""Bytes that reading one case may take at most, beside the case itself."""


def cases(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())


ALL = [(name, path) for name in BORDERS for path in cases(name)]


def understood(name: str, data: bytes) -> bool:
    """Whether they were; anything but a result and a typed error goes through."""
    border = BORDERS[name]
    try:
        return border.understood(border.read(data))
    except border.errors:
        return False


@pytest.mark.parametrize(("name", "path"), ALL, ids=[f"{name}/{path.name}" for name, path in ALL])
def test_each_case_is_understood_or_refused_as_it_is_called(name: str, path: Path) -> None:
    assert path.name.startswith(("good", "bad"))
    assert understood(name, path.read_bytes()) is path.name.startswith("good")


def test_each_border_has_cases_of_both_kinds() -> None:
    assert sorted(path.name for path in CORPUS.iterdir() if path.is_dir()) == sorted(BORDERS)
    for name in BORDERS:
        assert {path.name[:3] for path in cases(name)} == {"goo", "bad"}, name


def laughing(before: bytes) -> bytes:
    """Lines of YAML, each of which holds the one before it twice."""
    heads = [before % n if b"%" in before else before for n in range(60)]
    return b"".join(b"%s&a%d [*a%d, *a%d]\n" % (heads[n], n, n - 1, n - 1) for n in range(1, 60))


BOMBS = {
    "nothing": b"",
    "a NUL": b"\0",
    "no UTF-8": b"\xff\xfe\xfd" * 1000,
    "brackets": b"[" * 200_000,
    "braces": b'{"a":' * 50_000,
    "brackets that close": b"[" * 50_000 + b"]" * 50_000,
    "brackets in a key of ours": b'{"schema": 1, "extra": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "zeros": b"[" + b"0," * 200_000 + b"0]",
    "keys": b"{" + b",".join(b'"%d":0' % n for n in range(60_000)) + b"}",
    "digits": b"9" * 1_000_000,
    "digits of a key": b"workers = " + b"9" * 50_000,
    "a long line": b"a" * 1_000_000,
    "lines": b"\n" * 200_000,
    "quotes": b'"' * 200_000,
    "backslashes": b'"' + b"\\" * 200_000,
    "colons": b":" * 200_000,
    "dashes": b"- " * 50_000,
    "tables": b"[a" + b".a" * 20_000 + b"]\n",
    "arrays of TOML": b"a = " + b"[" * 50_000,
    "a laughing YAML": b"a0: &a0 [x, x]\n" + laughing(b"a%d: "),
    "a laughing name": b"problems:\n- name: &a0 [x, x]\n" + laughing(b"  b%d: ") + b"- name: *a59\n",
    "a laughing submitter": b"submission_1:\n  :submitters:\n  - &a0 [x, x]\n" + laughing(b"  - "),
    "entities": b'<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><testsuite name="&b;"/>',
    "elements": b"<testsuite>" * 50_000,
    "attributes": b"<testsuite " + b" ".join(b'a%d="b"' % n for n in range(50_000)) + b"/>",
    "scores lines": b'{"scores": {"a": 1}}\n' * 50_000,
    "lines of make": b'{"scores": {"a": 1}}\n}' + b"\nmake: }" * 32_000 + b"\n}" + b"\nmake: x" * 32_000 + b"\nbye",
    "names": b"a:" * 500_000 + b'{"scores": {"a": 1}}',
    "a header without end": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 50_000,
    "a status without end": b"HTTP/1.1 " + b"2" * 200_000,
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n[\r\n" * 50_000,
    "a body of brackets": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + b"[" * 200_000,
    "a pull of brackets": b'{"status": "x", "y": ' + b"[" * 50_000 + b"]" * 50_000 + b"}\n",
    "a zip that says it is large": b"PK\x03\x04" + b"\xff" * 5000,
    "a tar of zeros": bytes(256 << 10),
}


@pytest.mark.parametrize("name", BORDERS)
def test_bombs_cost_neither_time_nor_memory(name: str) -> None:
    """Each of them, at each border: what is harmless at one is none at another."""
    with ThreadPoolExecutor(1) as pool:
        for what, bomb in BOMBS.items():
            tracemalloc.start()  # which counts nothing of before
            try:
                pool.submit(understood, name, bomb).result(PATIENCE)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak < MEMORY + 12 * len(bomb), what


def changed(name: str) -> st.SearchStrategy[bytes]:
    """A case with a piece taken out, doubled, put in from another case, or made of anything."""
    seeds = [path.read_bytes() for path in cases(name) if path.stat().st_size <= 20_000]

    @st.composite
    def one(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(st.sampled_from(seeds)))
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(data)))
            to = min(len(data), at + draw(st.integers(0, 40)))
            other = draw(st.sampled_from(seeds))
            start = draw(st.integers(0, len(other)))
            data[at:to] = draw(
                st.one_of(
                    st.just(b""),
                    st.just(bytes(data[at:to]) * 2),
                    st.just(other[start : start + 40]),
                    st.binary(max_size=12),
                    st.sampled_from(TOKENS),
                )
            )
        return bytes(data)

    return one()


TOKENS = [
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"null", b"true", b"\0", b"\x1b[31m", b"\r\n", b"\xe2\x80\xae",
    b"\\ud800", b"\xed\xa0\x80", b"../", b"/", b"&a ", b"*a", b"!!python/object:os.system ", b"<!DOCTYPE a>", b"&#0;",
    b"]]>", b"=cmd()", b"99999999999999999999", b'"', b"'", b"{", b"}", b"[", b"]", b":", b",", b"\xff", b"\xd9\xa1",
    b"1_0",
]  # fmt: skip


@pytest.mark.parametrize("name", BORDERS)
def test_any_bytes_give_a_typed_result_or_a_typed_error(name: str) -> None:
    many = 15 if BORDERS[name].slow else 60

    @settings(max_examples=many, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(st.binary(max_size=300), changed(name)))
    def run(data: bytes) -> None:
        understood(name, data)

    run()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    gc.collect()
