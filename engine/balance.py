"""Whether several cards, or several processes on the CPU, are filled alike and have as much to do. What they hold and
have is handed in, sampled over half a minute, so that nothing is called out that passes. Knows no device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Of the memory that is in use on the fullest. Cards of one kind with the same model take the same to a few hundredths
# (two workers on a CPU: to 1 % at rest and under load), so a tenth has a reason: another program, or another plan.
UNEVEN_MEMORY = 0.10
# Of the tokens a slot that the busiest has under way. A prompt goes to whoever has the least, so members differ by
# about one prompt; two of the eight slots of a CPU are a fourth.
UNEVEN_LOAD = 0.25
# Half a minute of the sampler's: two workers that begin on 16 texts at once are a fourth apart for ten seconds
LASTING_SAMPLES = 15


@dataclass(frozen=True, slots=True)
class Load:
    tokens_a_slot: float  # under way
    is_full: bool  # every slot has a segment


@dataclass(frozen=True, slots=True)
class Standing:
    """At one moment, by name: how much of its memory each has in use, and what those have to do that take prompts.
    Figures of memory are compared with each other only: shares of a card, or bytes of a process."""

    memory: Mapping[str, float]
    load: Mapping[str, Load]


@dataclass(frozen=True, slots=True)
class Gap:
    """Between the one with the `most` and the one with the `least`, on average over half a minute."""

    most: str
    least: str
    share: float  # of what the first has, 0 to 1
    uneven: bool  # by more than is usual


def memory_gap(standings: Sequence[Standing]) -> Gap | None:
    """Over the last `LASTING_SAMPLES`, which are the last. None where fewer than two are there all the time."""
    return _gap([standing.memory for standing in standings], UNEVEN_MEMORY)


def load_gap(standings: Sequence[Standing]) -> Gap | None:
    """None, too, while the busiest has a slot free now and then: with little to do somebody has to have less."""
    tokens = [{name: load.tokens_a_slot for name, load in standing.load.items()} for standing in standings]
    gap = _gap(tokens, UNEVEN_LOAD)
    lasting = standings[-LASTING_SAMPLES:]
    return gap if gap and all(standing.load[gap.most].is_full for standing in lasting) else None


def _gap(samples: Sequence[Mapping[str, float]], most_share: float) -> Gap | None:
    samples = samples[-LASTING_SAMPLES:]
    names = [name for name in (samples[-1] if samples else ()) if all(name in sample for sample in samples)]
    if len(names) < 2 or len(samples) < LASTING_SAMPLES:
        return None
    total = {name: sum(sample[name] for sample in samples) for name in names}
    peak = max(total.values()) or 1.0
    level = {name: round(total[name] / peak, 2) for name in names}  # so that those who are alike do not change places
    most, least = max(names, key=level.__getitem__), min(names, key=level.__getitem__)
    share = round(level[most] - level[least], 2)
    return Gap(most, least, share, share > most_share)
