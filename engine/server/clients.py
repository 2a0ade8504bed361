"""Who asks: the address a request comes from, and the name of its key. Knows neither keys nor limits.

Behind a proxy every request comes from the proxy, which says in headers who asked it, over what and for which host.
Anybody can send such headers, so they are believed of trusted proxies only.
"""

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send

IPV6_PREFIX = 64  # bits: a home gets at least as many addresses as have these in common


@dataclass(frozen=True, slots=True)
class Client:
    address: str  # empty where the connection has none
    name: str = ""  # of its key; empty where nobody needs one
    requests_per_minute: int | None = None  # of its key; None: as the flag says
    tokens_per_minute: int | None = None

    @property
    def id(self) -> str:
        """One for all who share limits: a key, or without keys an address or a home's network."""
        return f"key {self.name}" if self.name else _network(self.address)


asking: ContextVar[Client | None] = ContextVar("asking", default=None)  # in all that is done for a request


def is_asked_by(scope: Scope, client: Client) -> None:
    """For all who look later at the request, and for what is begun on its behalf."""
    scope.setdefault("state", {})["client"] = client
    asking.set(client)


def client_of(scope: Scope) -> Client:
    client = scope["state"]["client"]
    assert isinstance(client, Client)
    return client


class KnowClient:
    """Outermost, so that all others see the client and not its proxy. `trusted`: addresses and networks of proxies."""

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = app
        self._trusted = [ip_network(one) for one in trusted]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            peer = scope.get("client")
            address = peer[0] if peer else ""
            if self._trusted and _is_in(address, self._trusted):
                address = self._believe(scope, address)
            is_asked_by(scope, Client(address))
        await self._app(scope, receive, send)

    def _believe(self, scope: Scope, address: str) -> str:
        """The address that the nearest proxy which is not ours to trust, or the client itself, came from."""
        forwarded = _last_of(scope, b"x-forwarded-proto")
        if forwarded in ("http", "https"):
            scope["scheme"] = forwarded.replace("http", "ws") if scope["type"] == "websocket" else forwarded
        if host := _last_of(scope, b"x-forwarded-host"):
            others = [(name, value) for name, value in scope["headers"] if name != b"host"]
            scope["headers"] = [(b"host", host.encode("latin-1")), *others]
        for hop in reversed(_list(scope, b"x-forwarded-for")):
            if _address(hop) is None:
                break
            address = hop
            if not _is_in(hop, self._trusted):
                break
        scope["client"] = (address, 0)
        return address


def _list(scope: Scope, name: bytes) -> list[str]:
    values = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return [part.strip() for part in ",".join(values).split(",") if part.strip()]


def _last_of(scope: Scope, name: bytes) -> str:
    return next(reversed(_list(scope, name)), "")


@lru_cache(maxsize=4096)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    """None where it is no address. One of IPv4 may come in IPv6's clothes."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return (isinstance(found, IPv6Address) and found.ipv4_mapped) or found


def _is_in(address: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    found = _address(address)
    return found is not None and any(found in network for network in networks)


@lru_cache(maxsize=4096)
def _network(address: str) -> str:
    found = _address(address)
    return str(IPv6Network((found, IPV6_PREFIX), strict=False) if isinstance(found, IPv6Address) else found or address)
