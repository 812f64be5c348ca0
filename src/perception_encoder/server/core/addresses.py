"""Which hosts and addresses a server may be sent to by those who ask it: public ones only."""

import ipaddress
import re
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# IPv6 that carries an IPv4 address on, to wherever that leads: compatible, NAT64, 6to4, Teredo.
_TRANSITION: Final = tuple(
    ipaddress.IPv6Network(net) for net in ("::/96", "64:ff9b::/96", "2002::/16", "2001::/32")
)
_RELAYS: Final = ipaddress.IPv4Network("192.88.99.0/24")  # of 6to4, given up in RFC 7526
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?", re.IGNORECASE)


def is_public(address: Address) -> bool:
    """Whether an address is of the public internet.

    Not so: loopback, private, link-local (also the clouds' metadata at 169.254.169.254), shared,
    multicast, reserved and documentation addresses, also inside an IPv6 address.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.scope_id is not None or address.is_site_local:
            return False
        if any(address in net for net in _TRANSITION):
            return False
    elif address in _RELAYS:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def literal(host: str) -> Address | None:
    """Return the address that a host is written as, in its one canonical form; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_name(host: str) -> bool:
    """Whether a host is a full domain name.

    Names that resolvers would take for addresses (127.1, 0x7f000001, 2130706433, 0177.0.0.1) are
    none: the last part of a real one is not a number. Nor is a name of one part, such as localhost.
    """
    labels = host.removesuffix(".").split(".")
    if len(labels) < 2 or len(host) > 253:
        return False
    if not all(len(label) <= 63 and _LABEL.fullmatch(label) for label in labels):
        return False
    return not re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1], re.IGNORECASE)
