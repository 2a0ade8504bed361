"""Numbers on a command line, for argparse's `type`: what makes no sense is told in a sentence."""

from argparse import ArgumentTypeError

LARGEST_SEED = 2**63 - 1  # torch takes 64 bits, and each process counts on from it


def count(given: str) -> int:
    """A whole number from 1 on."""
    if not given.isascii() or not given.isdigit() or int(given) < 1:
        raise ArgumentTypeError(f"{given!r} is not a whole number from 1 on")
    return int(given)


def whole(given: str) -> int:
    """A whole number from 0 on."""
    if not given.isascii() or not given.isdigit():
        raise ArgumentTypeError(f"{given!r} is not a whole number from 0 on")
    return int(given)


def seed(given: str) -> int:
    """A whole number that torch's random numbers can begin with."""
    if whole(given) > LARGEST_SEED:
        raise ArgumentTypeError(f"{given[:40]!r} is not a whole number from 0 to {LARGEST_SEED}")
    return int(given)


def counts(given: str) -> tuple[int, ...]:
    """The same with commas between, each once, in order."""
    return tuple(sorted({count(each) for each in given.split(",")}))


def amount(given: str) -> float:
    """A number above 0."""
    try:
        found = float(given)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ArgumentTypeError(f"{given!r} is not a number above 0")
    return found


def amount_or_none(given: str) -> float:
    """A number from 0 on, where 0 means never."""
    return 0.0 if given in ("0", "0.0") else amount(given)
