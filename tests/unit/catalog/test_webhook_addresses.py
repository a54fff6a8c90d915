"""No request goes into the own network unless it may."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from errata.catalog.webhooks.addresses import check_allowed, is_public, resolve
from errata.errors import PermissionDeniedError, UnavailableError

PRIVATE = (
    *("127.0.0.1", "127.8.9.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
    *("::1", "::", "fe80::1", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"),
    *("2002:7f00:1::", "2001:0:53aa:64c:0:0:0:1"),
    # `ipaddress` calls these global: site-local, IPv4-compatible, IPv4-translated, reserved, for
    # segment routing and documentation, multicast.
    *("fec0::1", "feff::1", "::8.8.8.8", "::127.0.0.1", "::ffff:0:8.8.8.8", "::ffff:0:127.0.0.1"),
    *("1::1", "4000::1", "fe00::1", "5f00::1", "3fff::1", "ff0e::1"),
)


@pytest.mark.parametrize("text", PRIVATE)
def test_a_private_address_is_refused_unless_it_is_allowed(text: str) -> None:
    address = ip_address(text)
    assert not is_public(address)
    with pytest.raises(PermissionDeniedError, match=r"no request was sent.*allow_private"):
        check_allowed("hooks.example", [address], allow_private=False)
    check_allowed("hooks.example", [address], allow_private=True)


@pytest.mark.parametrize("text", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "3fff:1000::1"])
def test_a_public_address_is_taken(text: str) -> None:
    check_allowed("hooks.example", [ip_address(text)], allow_private=False)


def test_one_private_address_among_others_is_enough() -> None:
    addresses = [ip_address("8.8.8.8"), ip_address("10.0.0.1")]
    with pytest.raises(PermissionDeniedError, match=r"hooks\.example has the address 10\.0\.0\.1"):
        check_allowed("hooks.example", addresses, allow_private=False)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1"])
async def test_other_spellings_of_an_address_are_resolved_first(host: str) -> None:
    assert [str(each) for each in await resolve(host, 80)] == ["127.0.0.1"]


@pytest.mark.parametrize("host", ["nobody.invalid", "a" * 300, "x..y", "\u00df" * 70])
async def test_a_name_without_an_address_can_be_tried_again(host: str) -> None:
    with pytest.raises(UnavailableError, match="is not known"):
        await resolve(host, 80)
