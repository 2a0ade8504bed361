"""How far the loading of a model is and how long it goes on: steps, each with the seconds it is likely to take.

Told on the thread that loads, read from any. Knows no model; what a step takes is said by who knows.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from engine.types import LoadStage, LoadState

Step = Literal["download", "libraries", "weights", "prepare", "test"]  # in this order
Advance = Callable[[float], None]  # which share of a step is done, 0 to 1

STEPS: tuple[Step, ...] = ("download", "libraries", "weights", "prepare", "test")
# With the embedded model, on two cores of an AMD EPYC, 2026-11-21. `test` is the first translation; as far as it is
# more than that, the processor packs weights for prompts then.
EXPECTED_SECONDS: dict[Step, float] = {"download": 0.0, "libraries": 3.5, "weights": 0.5, "prepare": 1.8, "test": 1.5}
STAGES: dict[Step, LoadStage] = {
    "download": "download",
    "libraries": "weights",  # to a reader they are one
    "weights": "weights",
    "prepare": "prepare",
    "test": "test",
}
CLOCKED: frozenset[Step] = frozenset({"libraries", "prepare", "test"})  # of which little can be told on the way
FIRST_SECONDS = 1.0  # in which nothing is said of the time left
DOWNLOAD_SECONDS = 2.0  # after which a connection's speed means something
OVERDUE = 0.1  # of the time that a step has taken, which is said to be left where more than was expected has gone by
PACE_SECONDS = 1.0  # of a machine as it was measured on, that the time taken so far is weighed with
_WORDS: dict[LoadStage, str] = {
    "download": "it is being downloaded",
    "weights": "its weights are being read",
    "prepare": "it is being prepared for this machine",
    "test": "it is being tested",
}


def untold(_share: float) -> None:
    """For who wants to know nothing."""


class Stopped(Exception):
    """Nobody waits for the model any more."""


class Progress:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._expected = dict(EXPECTED_SECONDS)
        self._taken: dict[Step, float] = {}  # seconds of the steps that are over
        self._step: Step = "libraries"
        self._share = 0.0  # of the step, as it was told last, …
        self._told = clock()  # … and when
        self._born = self._began = self._told  # the first step, and this one
        self._done = 0.0  # the most that was ever said
        self._ended: LoadState | None = None
        self._why = self._leaving = ""
        self._stopped = False

    def expect(self, step: Step, seconds: float) -> None:
        """How long a step is likely to take, as soon as that is known."""
        with self._lock:
            self._expected[step] = seconds

    def report(self, step: Step, share: float = 0.0) -> None:
        """`share` of the step is done, and all steps before are. Raises `Stopped` after `stop`."""
        if self._stopped:
            raise Stopped
        with self._lock:
            now = self._clock()
            if step != self._step:
                self._taken[self._step] = now - self._began
                self._step, self._began, self._share = step, now, 0.0
            self._share, self._told = max(self._share, min(share, 1.0)), now

    def follow(self, others: Sequence["Progress"]) -> None:
        """As far as the last of these is. Raises `Stopped` after `stop`."""
        last = min(others, key=lambda other: other.state().done)
        with last._lock:
            expected, step, share = dict(last._expected), last._step, last._share
        with self._lock:
            self._expected = expected
        self.report(step, share)

    def told(self, step: Step) -> Advance:
        """`report` of one step, for who knows no other."""
        return lambda share: self.report(step, share)

    def end(self) -> None:
        with self._lock:
            self._ended = LoadState("ready", "", 1.0, 0.0, "")

    def fail(self, reason: str) -> None:
        with self._lock:
            self._ended = LoadState("failed", STAGES[self._step], self._done, None, reason)

    def again(self, why: str) -> None:
        """From the beginning; `why` is what is told until it has ended."""
        with self._lock:
            self._taken, self._step, self._share, self._done = {}, "libraries", 0.0, 0.0
            self._told = self._born = self._began = self._clock()
            self._ended, self._why = None, why

    @property
    def stopped(self) -> bool:
        return self._stopped

    def leave(self, reason: str) -> None:
        """The program ends, whatever comes of the loading."""
        self._leaving = reason

    def stop(self) -> None:
        """The next `report` raises `Stopped`."""
        self._stopped = True

    def state(self) -> LoadState:
        with self._lock:
            if self._leaving:
                return LoadState("stopping", "", 1.0, None, self._leaving)
            if self._ended:
                return self._ended
            now, step = self._clock(), self._step
            place = STEPS.index(step)
            before, after = (sum(self._expected[each] for each in part) for part in (STEPS[:place], STEPS[place + 1 :]))
            own, pace = self._expected[step], self._pace()
            share = self._share
            if step in CLOCKED:  # between two reports it goes on by the clock, halfway to the end of the step at most
                share = max(share, min((now - self._began) / (own * pace or 1), (share + 1) / 2))
            self._done = max(self._done, (before + share * own) / (before + own + after or 1))
            in_step = self._left_in_step(now, own * pace)
            left = None if in_step is None or now - self._born < FIRST_SECONDS else round(in_step + after * pace, 1)
            stage, done = STAGES[step], round(self._done, 4)
        return LoadState("loading", stage, done, left, self._why or _sentence(stage, done, left))

    def _pace(self) -> float:
        """How many times as long as expected the steps have taken that are over. A connection's speed says nothing of
        the machine's."""
        taken = sum(seconds for step, seconds in self._taken.items() if step != "download")
        expected = sum(self._expected[step] for step in self._taken if step != "download")
        return (taken + PACE_SECONDS) / (expected + PACE_SECONDS)

    def _left_in_step(self, now: float, expected: float) -> float | None:
        """As the step has gone so far, from its middle on; before, the less that is, the more as expected. None: nobody
        can tell."""
        share, taken, gone = self._share, self._told - self._began, now - self._began
        if self._step == "download":
            if not share or taken < DOWNLOAD_SECONDS:
                return None
            whole = taken / share
        else:
            seen = min(1.0, 2 * share)
            whole = expected if not share else seen * taken / share + (1 - seen) * expected
        return max(whole - gone, OVERDUE * gone)


def _sentence(stage: LoadStage, done: float, left: float | None) -> str:
    when = "try again in a moment" if left is None else f"about {left:.0f} s are left; try again then"
    return f"The model is still being loaded: {_WORDS[stage]}, {done:.0%} of all is done, {when}."
