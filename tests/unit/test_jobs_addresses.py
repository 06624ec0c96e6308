"""Which addresses may be reached on a caller's behalf."""

import pytest

from services.jobs.addresses import Reachable, is_public
from services.jobs.settings import Settings
from services.mesh.settings import BadSettings, read

NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.254",
    "127.0.0.1",
    "127.1.2.3",
    "169.254.169.254",
    "169.254.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.255",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:7f00:1",
    "::ffff:8.8.8.8",
    "::127.0.0.1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2001:10::1",
    "2002:7f00:1::1",
    "2002:a00:1::",
    "fc00::1",
    "fd00:ec2::254",
    "fd12:3456:789a::1",
    "fe80::1",
    "fe80::1%eth0",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "ff05::2",
    "4000::1",
    "3fff::1",
    "5f00::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "100.63.255.255",
    "172.32.0.1",
    "192.1.1.1",
    "2606:4700::1111",
    "2a00::1",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_everybodys_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address", ["", "localhost", "0x7f.1", "2130706433", "127.1", "1.2.3.4.5", "1.1.1.1/32", "[::1]"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_nothing_private_is_reached_while_nothing_is_listed(address: str) -> None:
    assert not Reachable().allows("wiki.corp", address)


def test_a_listed_network_is_reached_and_no_other() -> None:
    reachable = Reachable(["10.1.0.0/16", "fd00:1::/32", "192.168.7.9"])
    assert all(reachable.allows("any.corp", each) for each in ("10.1.2.3", "fd00:1::5", "192.168.7.9", "1.1.1.1"))
    for each in ("10.2.0.1", "192.168.7.10", "fd00:2::1", "127.0.0.1", "::ffff:10.1.2.3"):
        assert not reachable.allows("any.corp", each)


def test_a_listed_host_may_be_anywhere_but_where_metadata_services_are() -> None:
    reachable = Reachable(["Wiki.corp"])
    assert reachable.allows("wiki.corp", "10.9.9.9")
    assert reachable.allows("WIKI.corp.", "127.0.0.1")
    assert not reachable.allows("evil.wiki.corp", "10.9.9.9")
    assert not reachable.allows("wiki.corp", "169.254.169.254")
    assert not reachable.allows("wiki.corp", "fe80::1")


@pytest.mark.parametrize(
    "entry", ["", "10.1.0.1/16", "http://wiki.corp", "wiki.corp:80", "*", "127.1", "a..b", "10.0.0.0/40"]
)
def test_what_is_neither_network_nor_host_cannot_be_listed(entry: str) -> None:
    with pytest.raises(ValueError, match="is neither a network nor a host name"):
        Reachable([entry])


def test_settings_name_what_may_be_reached_and_refuse_what_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGWEAVE_JOBS_WEB_ALLOW", "wiki.corp, 10.1.0.0/16")
    monkeypatch.setenv("RAGWEAVE_JOBS_WEB_PORTS", "80,8000")
    settings = read(Settings)
    assert (settings.web_allow, settings.web_ports) == (("wiki.corp", "10.1.0.0/16"), (80, 8000))
    for name, wrong in (("WEB_ALLOW", "http://wiki.corp"), ("WEB_PORTS", "0"), ("WEB_PORTS", "x")):
        with monkeypatch.context() as given, pytest.raises(BadSettings, match=name):
            given.setenv(f"RAGWEAVE_JOBS_{name}", wrong)
            read(Settings)
