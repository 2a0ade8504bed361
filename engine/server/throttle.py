"""How much a client may ask: requests and tokens a minute, and how many at once. Knows not what is asked.

A minute's worth is a bucket that fills steadily. It is kept as the time at which it will be full again, so a client
that has not asked for a minute needs none, and those who asked longest ago make room where there are very many.
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import TooManyRequests
from engine.server.clients import Client, asking, client_of
from engine.server.errors import answer, path_of

MOST_BUCKETS = 50_000  # some 200 bytes each
MINUTE_SECONDS = 60.0
WHILE_BUSY_SECONDS = 2  # to wait where it is not known when one of one's own requests ends

# What a page is made of, and what shows how the server or a document is: the first part of paths, to be read only.
_FREE = frozenset(
    " assets favicon.ico robots.txt static studio theme.css"
    " docs documents openapi.json health healthz readyz metrics system login".split(" ")
)
# What the page asks at each rest of the keyboard, and no model answers. Of a long text it counts as any request.
_LIGHT = ("/detect", "/gradio_api/component_server/")
LIGHT_BYTES = 10_000


class Bucket:
    """Of every client one. For one event loop only."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()  # who asked last is the last

    def __len__(self) -> int:
        return len(self._full_at)

    def wait_seconds(self, client_id: str, cost: float, per_minute: float) -> float:
        """Until there is room for so much; 0 where there is."""
        now = self._clock()
        full_in = max(0.0, self._full_at.get(client_id, now) - now)
        return max(0.0, full_in + cost * MINUTE_SECONDS / per_minute - MINUTE_SECONDS)

    def take(self, client_id: str, cost: float, per_minute: float) -> None:
        """Also what there is no room for: then the client waits the longer."""
        now = self._clock()
        self._full_at[client_id] = max(now, self._full_at.get(client_id, now)) + cost * MINUTE_SECONDS / per_minute
        self._full_at.move_to_end(client_id)
        if len(self._full_at) > MOST_BUCKETS:
            self._full_at.popitem(last=False)


class Throttle:
    """Numbers of None limit nothing; a key's own go before these."""

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        at_once: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests_per_minute, self._tokens_per_minute = requests_per_minute, tokens_per_minute
        self._at_once = at_once
        self._requests, self._tokens = Bucket(clock), Bucket(clock)
        self._under_way: Counter[str] = Counter()
        self._sockets: Counter[str] = Counter()

    @property
    def limits(self) -> bool:
        """Whether it does, also those whose key has no numbers of its own."""
        return any((self._requests_per_minute, self._tokens_per_minute, self._at_once))

    @contextmanager
    def request(self, client: Client | None = None) -> Iterator[None]:
        """For the length of a request, or of a run on a socket. Raises `TooManyRequests` before it begins."""
        if client := client or asking.get():
            self._admit(client)
            with self._counted(self._under_way, client, "requests under way"):
                yield
        else:
            yield

    @contextmanager
    def socket(self, client: Client) -> Iterator[None]:
        """For the length of a WebSocket. A page has one open without asking, so they are counted apart."""
        with self._counted(self._sockets, client, "WebSockets open"):
            yield

    def spend(self, tokens: int) -> None:
        """Charged to who asked for what is being done; what goes on after a restart is charged to nobody."""
        if (client := asking.get()) and (most := client.tokens_per_minute or self._tokens_per_minute):
            self._tokens.take(client.id, tokens, most)

    def _admit(self, client: Client) -> None:
        tokens = client.tokens_per_minute or self._tokens_per_minute
        if tokens and (wait := self._tokens.wait_seconds(client.id, 1, tokens)):
            raise _refusal(f"{tokens:,} tokens a minute", wait)
        if requests := client.requests_per_minute or self._requests_per_minute:
            if wait := self._requests.wait_seconds(client.id, 1, requests):
                raise _refusal(f"{requests:,} requests a minute", wait)
            self._requests.take(client.id, 1, requests)

    @contextmanager
    def _counted(self, counter: Counter[str], client: Client, what: str) -> Iterator[None]:
        if self._at_once is None:
            yield
            return
        who = client.id
        if counter[who] >= self._at_once:
            raise TooManyRequests(
                f"You have {counter[who]:,} {what}, and nobody may have more here; wait until one ends.",
                WHILE_BUSY_SECONDS,
            )
        counter[who] += 1
        try:
            yield
        finally:
            counter[who] -= 1
            if not counter[who]:
                del counter[who]


class Throttled:
    """Each request for work asks the throttle first, and each WebSocket, whose runs ask it themselves."""

    def __init__(self, app: ASGIApp, throttle: Throttle) -> None:
        self._app, self._throttle = app, throttle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and _is_free(scope)):
            return await self._app(scope, receive, send)
        client = client_of(scope)
        of_a_socket = scope["type"] == "websocket"
        with ExitStack() as held:
            try:
                held.enter_context(self._throttle.socket(client) if of_a_socket else self._throttle.request(client))
            except TooManyRequests as refusal:
                if of_a_socket:  # an empty 403: no page can read what comes with it
                    return await send({"type": "websocket.close", "code": 1008})
                return await answer(refusal, scope)(scope, receive, send)
            await self._app(scope, receive, send)


def _is_free(scope: Scope) -> bool:
    path = path_of(scope)
    if path in _LIGHT:
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        return length.isdigit() and int(length) <= LIGHT_BYTES
    return scope["method"] in ("GET", "HEAD") and path[1:].partition("/")[0] in _FREE


def _refusal(most: str, wait_seconds: float) -> TooManyRequests:
    seconds = math.ceil(wait_seconds)
    return TooManyRequests(f"You have used up your {most}; try again in {seconds:,} s.", seconds)
