"""Who goes next: requests are admitted or refused, then take turns, a segment each. Knows no text and no model.

Batching of tokens is the backend's; fairness between requests is ours. The waiting stand in a ring of per-request
queues, so that a line never waits behind a book; and where there are many slots a few are kept for those who come new,
so that it does not wait for a segment of one either. Until somebody comes they are lent.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

from engine.errors import Overloaded, Stopping

STOPPING = "Yiwen is being stopped and takes nothing new; try again in a minute."
STOPPING_SECONDS = 20  # after which it may be up again
SLOTS_PER_NEW = 8  # of so many slots one is kept for the first segments of requests


class _Slot:
    """Not made of a generator, since there is one for each segment and that would take longer than all else here."""

    def __init__(self, acquire: Callable[[], Awaitable[bool]], release: Callable[[bool], None]) -> None:
        self._acquire, self._release = acquire, release

    async def __aenter__(self) -> bool:
        self._later = await self._acquire()
        return not self._later

    async def __aexit__(self, *_error: object) -> None:
        self._release(self._later)


class Scheduler:
    """`slots` segments run at once, and as many more first ones as kept slots are lent: for these the backend lets a
    later one wait (`Prompt.first`). `max_requests` requests are running or waiting at once.

    Requests that share an id share their turns, so an id should belong to one request. For one event loop only.
    """

    def __init__(self, slots: int, max_requests: int) -> None:
        if slots < 1 or max_requests < 1:
            raise ValueError(f"a scheduler needs at least 1 slot and 1 request, not {slots} and {max_requests}")
        self.slots = slots
        self.max_requests = max_requests
        self._closed = False
        self._admitted: Counter[str] = Counter()
        self._held: Counter[str] = Counter()  # slots in use, by request
        self._begun: set[str] = set()  # of those admitted, who has had a slot
        self._later = 0  # slots in use by segments that are no request's first
        self._ring: OrderedDict[str, deque[asyncio.Future[bool]]] = OrderedDict()  # never empty queues

    def grow(self, slots: int) -> None:
        """To as many slots as a backend has that was not there at first. Those who wait get them at once."""
        self.slots = max(self.slots, slots)
        while self._grant():
            pass

    def close(self) -> str:
        """Nobody is admitted any more; who is goes on. What is said of it."""
        self._closed = True
        return STOPPING

    @property
    def free(self) -> int:
        """Slots that nobody uses; while there is one, nobody waits for a first segment."""
        return max(0, self.slots - self._held.total())

    @property
    def waiting(self) -> int:
        """Segments that wait for a slot."""
        return sum(len(turns) for turns in self._ring.values())

    @property
    def requests(self) -> int:
        """Requests admitted now: running and waiting."""
        return self._admitted.total()

    def has(self, request_id: str) -> bool:
        """Whether a request of that id is admitted now."""
        return self._admitted[request_id] > 0

    @contextmanager
    def admit(self, request_id: str) -> Iterator[None]:
        """Let a request in for the length of the `with` block, or raise `Overloaded` before any work is done."""
        if self._closed:
            raise Stopping(STOPPING, STOPPING_SECONDS)
        if self.requests >= self.max_requests:
            raise Overloaded(
                f"{self.requests} requests are being translated or waiting, and this server takes no more than "
                f"{self.max_requests} at once; try again in a few seconds."
            )
        self._admitted[request_id] += 1
        try:
            yield
        finally:
            self._admitted[request_id] -= 1
            if not self._admitted[request_id]:
                del self._admitted[request_id]
                self._begun.discard(request_id)

    def ahead(self, request_id: str) -> int:
        """How many other requests hold a slot or wait before this one; 0 when a slot is free for it."""
        if self._may_hold(request_id) or request_id in self._held:
            return 0
        before = set(self._held)
        for waiting_id in self._ring:
            if waiting_id == request_id:
                break
            before.add(waiting_id)
        return len(before - {request_id})

    def slot(self, request_id: str) -> _Slot:
        """Wait for this request's turn and hold a slot for the length of the `async with` block; whether it is its
        first."""
        return _Slot(partial(self._acquire, request_id), partial(self._release, request_id))

    async def _acquire(self, request_id: str) -> bool:
        """Whether the segment is a later one of its request."""
        if self._may_hold(request_id):
            return self._hold(request_id)
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._ring.setdefault(request_id, deque()).append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(request_id, turn)
            else:  # the slot was granted at the moment of the cancel: it goes on to the next
                self._release(request_id, turn.result())
            raise

    def _may_hold(self, request_id: str) -> bool:
        lent = 0 if request_id in self._begun else self._later - (self.slots - self.slots // SLOTS_PER_NEW)
        return self._held.total() < self.slots + max(0, lent)

    def _hold(self, request_id: str) -> bool:
        later = request_id in self._begun
        self._held[request_id] += 1
        self._later += later
        if request_id in self._admitted:
            self._begun.add(request_id)
        return later

    def _leave(self, request_id: str, turn: asyncio.Future[bool]) -> None:
        turns = self._ring.get(request_id)
        if turns and turn in turns:  # a release may have met it first
            turns.remove(turn)
            if not turns:
                del self._ring[request_id]

    def _release(self, request_id: str, later: bool) -> None:
        self._later -= later
        self._held[request_id] -= 1
        if not self._held[request_id]:
            del self._held[request_id]
        self._grant()

    def _grant(self) -> bool:
        """Hand a slot to the next request in the ring that may have it, which then goes to the ring's end; False where
        there is none."""
        while (next_id := next(filter(self._may_hold, self._ring), None)) is not None:
            turns = self._ring.pop(next_id)
            turn = turns.popleft()
            if turns:
                self._ring[next_id] = turns
            if not turn.done():  # done: cancelled, its task has not come round to leave yet
                turn.set_result(self._hold(next_id))
                return True
        return False
