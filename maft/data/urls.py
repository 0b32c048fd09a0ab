"""A picture from the web, fetched so that a stranger's link can reach nothing but the web."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from maft.errors import UserError, first_line, shown

MOST_BYTES = 64 << 20
_SECONDS = 30
_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_PART = 1 << 16
# What stands for itself in an address; other letters are written as their bytes.
_SAFE = "%/:@!$&'()*+,;=?~"
# Addresses of IPv4 written as ones of IPv6, which a gateway sends on to IPv4.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# All of IPv6 that the internet has: what lies outside is of a site, or IPv4 in some other spelling.
_INTERNET = ipaddress.ip_network("2000::/3")
# What Python's own list takes for public, in some releases: of protocols, and for documentation.
_RESERVED = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("3fff::/20"))
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_url(text: str) -> bool:
    """Whether a text is a web address rather than a path."""
    return text[:8].lower().startswith(("http://", "https://"))


def fetched(url: str, most_bytes: int = MOST_BYTES, seconds: float = _SECONDS) -> bytes:
    """What an https address holds.

    The name and each redirection are resolved here, every address must be a public one, and the connection goes to the
    address that was checked: what the name resolves to a moment later, and proxies, play no part.

    Args:
        most_bytes: more is refused, at the latest as it arrives.
        seconds: for all of it, however slowly it comes.

    Raises:
        UserError: it is no https address, is or leads to an address that is not public, cannot be reached, answers
            with an error, is too large or takes too long.
    """
    end = time.monotonic() + seconds
    place = url
    for _ in range(_MOST_REDIRECTS + 1):
        parts = _checked(place)
        address, port = _public_address(parts)
        left = end - time.monotonic()
        connection = _Pinned(str(address), parts.hostname or "", port, left)
        # A socket's own time limit starts anew with every byte.
        timer = threading.Timer(left, connection.give_up)
        timer.daemon = True
        timer.start()
        try:
            connection.request(
                "GET",
                quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""),
                headers={"User-Agent": "maft", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
            )
            response = connection.getresponse()
            if response.status not in _REDIRECTS:
                return _content(response, url, most_bytes, connection)
            place = urljoin(place, response.headers.get("Location", ""))
        except (OSError, HTTPException, ValueError) as error:
            reason = f"it took more than {seconds:g} seconds" if connection.expired else first_line(error)
            raise UserError(f"{shown(url)} cannot be fetched ({reason}): download the picture yourself.") from error
        finally:
            timer.cancel()
            connection.close()
    raise UserError(f"{shown(url)} redirects more than {_MOST_REDIRECTS} times: give the picture's own address.")


class _Pinned(HTTPSConnection):
    """A connection to an address, with the certificate of a name."""

    def __init__(self, address: str, name: str, port: int, seconds: float) -> None:
        self._tls = ssl.create_default_context()
        super().__init__(name, port, timeout=max(seconds, 0.001), context=self._tls)
        self._address, self.expired = address, False
        # The base class lets go of the socket while the answer is still read.
        self._opened: ssl.SSLSocket | None = None

    def connect(self) -> None:
        """Opens the connection; the name is not asked for again."""
        plain = socket.create_connection((self._address, self.port), self.timeout)
        # The handshake comes when `give_up` can end it.
        self._opened = self._tls.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = self._opened
        if self.expired:
            raise TimeoutError("the time ran out")
        self._opened.do_handshake()

    def give_up(self) -> None:
        """Ends what another thread waits for."""
        self.expired = True
        if self._opened is not None:
            with suppress(OSError):
                self._opened.shutdown(socket.SHUT_RDWR)


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme == "https" and parts.hostname and parts.username is None and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise UserError(
        f"{shown(url)} is no address to fetch a picture from: give one of https:// and a host, without a password."
    )


def _public_address(parts: SplitResult) -> tuple[_Address, int]:
    name, port = parts.hostname or "", parts.port or 443
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    except (OSError, ValueError) as error:
        raise UserError(f"{name} cannot be found ({first_line(error)}): check the address and the network.") from error
    for address in addresses:
        if not is_public(address):
            raise UserError(f"{name} lies at {address}, which is not public: download the picture yourself.")
    if not addresses:
        raise UserError(f"{name} has no address: check it.")
    return addresses[0], port


def is_public(address: _Address) -> bool:
    """Whether an address belongs to the internet, also the one of IPv4 that may be written in one of IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None and not is_public(inner):
            return False
        if address.ipv4_mapped or address in _NAT64:
            return True
        if address not in _INTERNET:
            return False
    return address.is_global and not address.is_multicast and not any(address in network for network in _RESERVED)


def _content(response: HTTPResponse, url: str, most_bytes: int, connection: _Pinned) -> bytes:
    if response.status != 200:
        raise UserError(f"{shown(url)} answers {response.status} {response.reason}: check the address.")
    content = bytearray()
    announced = int(response.headers.get("Content-Length") or 0)
    while max(announced, len(content)) <= most_bytes and (part := response.read(_PART)):
        content += part
    if max(announced, len(content)) > most_bytes:
        raise UserError(f"{shown(url)} is larger than {most_bytes >> 20} MiB: give a smaller picture.")
    if connection.expired:
        raise TimeoutError("the time ran out")
    return bytes(content)
