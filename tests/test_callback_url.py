"""Which URLs callbacks may go to, and which addresses those may lead to."""

from __future__ import annotations

import ipaddress

import pytest

from minitango import Callbacks, ConfigError, Submission
from minitango.callback_url import ANYWHERE, MAX_URL, Target, host_of, parse, refusal
from tests.support import assignment, submission


@pytest.mark.parametrize(
    ("url", "target", "authority"),
    [
        ("https://lms.example", Target(True, "lms.example", 443, "/"), "lms.example"),
        ("HTTP://LMS.Example/a/b?c=d", Target(False, "lms.example", 80, "/a/b?c=d"), "lms.example"),
        ("https://lms.example:8443/?x", Target(True, "lms.example", 8443, "/?x"), "lms.example:8443"),
        ("https://lms.example:443/", Target(True, "lms.example", 443, "/"), "lms.example"),
        ("http://lms.example:443/", Target(False, "lms.example", 443, "/"), "lms.example:443"),
        ("http://9.9.9.9/x", Target(False, "9.9.9.9", 80, "/x"), "9.9.9.9"),
        ("http://[2620:FE::FE]:8080/x", Target(False, "2620:fe::fe", 8080, "/x"), "[2620:fe::fe]:8080"),
        ("https://xn--bcher-kva.example/%C3%A9", Target(True, "xn--bcher-kva.example", 443, "/%C3%A9"), None),
        ("https://a_b.c-d.example/", Target(True, "a_b.c-d.example", 443, "/"), None),
        ("https://lms.example/@x?y=a@b:c", Target(True, "lms.example", 443, "/@x?y=a@b:c"), None),
    ],
)
def test_a_good_url(url: str, target: Target, authority: str | None) -> None:
    assert parse(url) == target
    assert target.authority == (authority or target.host)
    assert target.path not in target.shown[8:] or target.path == "/"


NO_URLS = [
    "", "lms.example/x", "//lms.example/x", "/x", "ftp://lms.example/x", "file:///etc/passwd", "gopher://lms.example/",
    "unix:///run/docker.sock", "javascript:alert(1)", "http:lms.example", "http:///x", "http://:80/", "https://?x",
    "http://user@lms.example/", "http://user:secret@lms.example/", "http://lms.example@10.0.0.1/", "http://@lms.example/",
    "http://lms.example\\@10.0.0.1/", "http://lms.example/a b", "http://lms.example/\r\nHost: x", "http://lms.example/\t",
    "http://lms.example/\x00", "http://bücher.example/", "http://lms.example/é", "http://lms.example/#x",
    "http://lms.example:0/", "http://lms.example:/", "http://lms.example:65536/", "http://lms.example:x/",
    "http://lms.example:-1/", "http://lms.example./", "http://.example/", "http://-a.example/", "http://a..example/",
    "http://[::1/", "http://::1/", "http://[fe80::1%25eth0]/", "http://[::g]/", "http://①②⑦.⓪.⓪.①/", "http://lms,example/",
    f"http://{'a' * 64}.example/", f"http://{'a.' * 127}example/", "http://lms.example/" + "a" * MAX_URL,
]  # fmt: skip
ODD = [
    "2130706433", "017700000001", "0x7f000001", "0x7f.1", "127.1", "127.0.1", "0177.0.0.1", "0x7f.0.0.1", "127.0.0.1.2",
    "127.0.0.01", "1", "0", "0x", "256.1.1.1", "example.1", "a.0x7f",
]  # fmt: skip


@pytest.mark.parametrize("url", [*NO_URLS, *(f"http://{host}/" for host in ODD)])
def test_what_nothing_is_ever_sent_to(url: str) -> None:
    for allow in ((), ANYWHERE):
        with pytest.raises(ConfigError) as caught:
            parse(url, allow)
        assert caught.value.id == "callback_url"
        assert caught.value.hint
    with pytest.raises(ConfigError):
        submission(callback=url or " ")


PRIVATE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16", "198.18.0.1",
    "192.0.2.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "::127.0.0.1",
    "::10.0.0.1", "::9.9.9.9", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::",
    "2002:909:909::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1",
    "100::1", "4000::1",
]  # fmt: skip
PUBLIC = [
    "9.9.9.9",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "2620:fe::fe",
    "::ffff:9.9.9.9",
    "64:ff9b::909:909",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_refused_unless_it_is_named(address: str) -> None:
    assert refusal(ipaddress.ip_address(address))
    url = f"http://[{address}]:8000/" if ":" in address else f"http://{address}:8000/"
    with pytest.raises(ConfigError) as caught:
        parse(url)
    assert caught.value.id == "callback_url"
    assert f"--callback-allow {host_of(address)}" in caught.value.hint
    assert parse(url, Callbacks(allow=(address,)).allow).port == 8000
    with pytest.raises(ConfigError):
        parse(url, Callbacks(allow=("lms.internal", "10.9.9.9")).allow)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_will_do(address: str) -> None:
    assert refusal(ipaddress.ip_address(address)) == ""


@pytest.mark.parametrize("url", ["http://localhost/", "http://LOCALHOST:8000/", "http://a.localhost/"])
def test_this_machine_by_its_name(url: str) -> None:
    with pytest.raises(ConfigError):
        parse(url)
    assert parse(url, ("localhost", "a.localhost"))


@pytest.mark.parametrize("port", [1, 22, 25, 79, 81, 442, 444, 1023])
def test_ports_of_other_services(port: int) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"https://lms.example:{port}/")
    assert "--callback-allow lms.example" in caught.value.hint
    assert parse(f"https://lms.example:{port}/", {"lms.example"}).port == port
    assert parse("https://lms.example:1024/").port == 1024


@pytest.mark.parametrize("entry", ["http://lms.internal", "lms.internal:8000", "", "a b", "0x7f.1", "*.internal"])
def test_what_is_no_host_is_not_allowed(entry: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Callbacks(allow=(entry,))
    assert caught.value.id == "callback_url"
    assert "cannot be allowed to" in str(caught.value)


def test_a_list_of_hosts_is_no_word() -> None:
    for wrong in ("lms.internal", (1,)):
        with pytest.raises(ConfigError):
            Callbacks(allow=wrong)  # type: ignore[arg-type]


def test_hosts_are_compared_however_they_are_written() -> None:
    assert Callbacks(allow=("LMS.Internal", "[0:0::1]", "lms.internal")).allow == ("lms.internal", "::1")
    assert parse("http://[0::1]/", ("::1",)).host == "::1"


def test_a_secret_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="it is empty"):
        parse("")
    with pytest.raises(ConfigError) as caught:
        parse("https://user:hush@lms.example/x?hush")
    assert "'https://...@lms.example/x'" in caught.value.message
    assert "hush" not in caught.value.message
    assert "hush" not in repr(Callbacks(secret="hush"))
    assert "..." not in repr(Callbacks())


def test_a_submission_leaves_the_address_to_who_sends() -> None:
    assert isinstance(submission(callback="http://10.0.0.1:99/x", of=assignment()), Submission)
