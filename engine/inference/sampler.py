"""Chooses the next token of every row: greedy or by temperature, top-k, top-p and repetition penalty, each row its own.

The state of all sequences lies by slot on the device. What a row is given depends on its scores, its sampling, its seed
and the number of the token in its answer, and on nothing else: neither its slot nor who is in the batch, neither a
preemption nor the path taken. Same order as transformers' `generate`: penalty, temperature, top-k, top-p. A score that
is no number counts as minus infinity, so that its token is not chosen while another has any chance; plus infinity wins.
Knows no model.
"""

import secrets
import struct
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from engine.types import Sampling

Kind = Literal["greedy", "top_k", "any"]  # of a step: all rows greedy; or greedy or of a top-k of at most MOST_TOP; any

MOST_TOP = 64  # a top-k; beyond it, or with none, all scores are sorted
SORTED_ROWS = 32  # at once, so that the memory for it has a bound: 48 bytes a score
TOP_GROUP = 32  # ids whose best is looked for first; the fastest of 8…128 for 32,000 ids on two cores
BEST_GROUP = 128  # the same where only the very best is wanted; a multiple of TOP_GROUP, and not below MOST_TOP
LENGTH = 8_192  # tokens a penalty remembers of one sequence, unless told otherwise
DRAWS = 4_096  # random numbers of one sequence; an answer longer than that meets them again
COLDEST = 1e-5  # a temperature; below it only the best is left, and far below it divisions overflow
LARGEST = 1e30  # a score; a penalty near zero makes some infinite, and infinity less infinity is no number
WEIGHT_BITS = 32  # of the integer weight of the best token; 2^21 such weights still sum exactly in a double
GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)

# SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), as signed 64-bit numbers
GAMMA = 0x9E3779B97F4A7C15 - 2**64
MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
MIX_2 = 0x94D049BB133111EB - 2**64

# A slot's row of state: four int64, a float64 and two float32, so that one copy brings all.
ROW = struct.Struct("=4qd2f")
MADE, OFFSET, LAST, SEED = range(4)
TOP_P = 4  # of the row seen as float64
TEMPERATURE, PENALTY = 10, 11  # of the row seen as float32
NO_PENALTY = -(2**62)  # an offset; the row counts as one that has said nothing


def resolve(asked: Sampling, recommended: Sampling) -> Sampling:
    """What the caller left open is taken from the checkpoint, and greedy where that is silent too."""
    named = {}
    for name in ("temperature", "top_p", "top_k", "repetition_penalty", "seed"):
        values = (getattr(each, name) for each in (asked, recommended, GREEDY))
        named[name] = next((value for value in values if value is not None), None)
    return Sampling(**named)


class Sampler:
    """The sampling of `slots` sequences. Row `slots` of every array is scrap, for rows that pad a batch.

    `tokens`, int64 [slots + 1], is the newest token of each.
    """

    def __init__(self, slots: int, vocab_size: int, device: str, length: int = LENGTH, draws: int = DRAWS) -> None:
        """`length`: the most different tokens, and then said ones, that a penalty remembers of a sequence. `draws`: the
        random numbers of a sequence that are kept ready."""
        self.tokens = torch.zeros(slots + 1, dtype=torch.int64, device=device)
        self._vocab_size, self._length = vocab_size, length
        self._on_cpu = self.tokens.device.type == "cpu"
        self._kinds: list[Kind] = ["greedy"] * (slots + 1)
        idle = row_of(0, NO_PENALTY, GREEDY, vocab_size)
        self._state = idle.to(device).repeat(slots + 1, 1)  # int64 [slots + 1, 6]: see ROW
        self._uniform = torch.zeros(slots + 1, draws, dtype=torch.float64, device=device)
        # the ids a penalty falls on, in any order, some more than once: [slots + 1, length]
        self._said = torch.zeros(slots + 1, length, dtype=torch.int64, device=device)

    @torch.inference_mode()
    def begin(self, slot: int, sampling: Sampling, seen_ids: Sequence[int], made: int) -> None:
        """Sets up a slot for a sequence of which `made` tokens are chosen; they are the last of `seen_ids`, after its
        prompt; without any there is no penalty. `sampling` is resolved; a seed of None draws one. Never waits for the
        device."""
        offset = NO_PENALTY
        if sampling.repetition_penalty != 1 and seen_ids:
            ids = list(dict.fromkeys(seen_ids))[-self._length :]
            offset = len(ids) - made
            self._said[slot].fill_(ids[0])  # what lies behind is no more than said again
            self._said[slot, : len(ids)].copy_(self._staged(torch.tensor(ids)), non_blocking=True)
        row = row_of(made, offset, sampling, self._vocab_size)
        self._state[slot].copy_(self._staged(row), non_blocking=True)
        self._kinds[slot] = kind_of(sampling)
        if self._kinds[slot] != "greedy":
            places = torch.arange(self._uniform.shape[1], device=self._uniform.device)
            self._uniform[slot].copy_(splitmix(int(row[SEED]), places))

    def kind(self, slots: Sequence[int]) -> Kind:
        """The cheapest path that serves all of these; a token does not depend on which path took it."""
        kinds = {self._kinds[slot] for slot in slots}
        return "any" if "any" in kinds else "top_k" if "top_k" in kinds else "greedy"

    @torch.inference_mode()
    def choose(self, scores: Tensor, slots: Tensor, kind: Kind) -> Tensor:
        """Scores [rows, vocab_size] of any float type and the rows' slots, int64 → their tokens, int64 [rows].

        Scores in float32 may be written over. On a card nothing waits or depends on data, so a graph may hold it.
        """
        scores = _whole_groups(scores)
        state = self._state[slots]
        made = state[:, MADE]
        places = made + state[:, OFFSET]
        self._penalise(scores, slots, state, places)
        scores.nan_to_num_(-torch.inf, torch.inf, -torch.inf)
        if kind == "greedy":
            tokens = _best(scores)
        else:
            draws = self._draws(slots, state)
            if kind == "top_k":
                tokens = _sample(*_top(scores), state, draws)
            else:
                parts = []
                for start in range(0, len(scores), SORTED_ROWS):
                    block = slice(start, start + SORTED_ROWS)
                    values, ids = scores[block].sort(descending=True, stable=True)
                    parts.append(_sample(values, ids, state[block], draws[block]))
                tokens = torch.cat(parts)
        if scores.shape[1] > self._vocab_size:  # then, where no score is above minus infinity, padding is as good
            tokens.clamp_(max=self._vocab_size - 1)
        self._state[:, MADE].index_copy_(0, slots, made + 1)
        self._said.index_put_((slots, places.clamp_(0, self._length - 1)), tokens)
        self.tokens.index_copy_(0, slots, tokens)
        return tokens

    def _penalise(self, scores: Tensor, slots: Tensor, state: Tensor, places: Tensor) -> None:
        # a graph's shapes are fixed; on the CPU nobody waits for a number, and most rows are far shorter
        width = min(int(places.max()), self._length) if self._on_cpu else self._length
        if width <= 0:
            return
        penalty = state.view(torch.float32)[:, PENALTY, None]
        ids = self._said[:, :width].index_select(0, slots)
        some = scores.gather(1, ids)
        scores.scatter_(1, ids, torch.where(some > 0, some / penalty, some * penalty))

    def _draws(self, slots: Tensor, state: Tensor) -> Tensor:
        return self._uniform[slots, state[:, MADE] % DRAWS]

    def _staged(self, values: Tensor) -> Tensor:
        """In memory from which a card copies by itself; freed for others only when it has."""
        return values if self._on_cpu else values.pin_memory()


def kind_of(sampling: Sampling) -> Kind:
    assert sampling.top_k is not None
    if not sampling.temperature or sampling.top_k == 1:
        return "greedy"
    return "top_k" if 1 <= sampling.top_k <= MOST_TOP else "any"


def row_of(made: int, offset: int, sampling: Sampling, vocab_size: int) -> Tensor:
    """A slot's state as int64 [6]; a seed of None draws one. Greedy is a top-k of one."""
    top_k = sampling.top_k if sampling.temperature else 1
    packed = ROW.pack(
        made,
        offset,
        min(top_k or vocab_size, vocab_size) - 1,
        _signed(secrets.randbits(64) if sampling.seed is None else sampling.seed),
        sampling.top_p,
        max(sampling.temperature or 0.0, COLDEST),
        sampling.repetition_penalty,
    )
    return torch.frombuffer(bytearray(packed), dtype=torch.int64)


def _whole_groups(scores: Tensor) -> Tensor:
    """The scores in float32 (in bf16 a penalty of 1.05 would round to ties), up to a whole number of groups of ids."""
    short = -scores.shape[1] % BEST_GROUP
    if not short and scores.dtype == torch.float32:
        return scores.contiguous()
    whole = scores.new_full((len(scores), scores.shape[1] + short), -torch.inf, dtype=torch.float32)
    whole[:, : scores.shape[1]] = scores
    return whole


def _best(scores: Tensor) -> Tensor:
    """As `argmax` over the last dimension, whose loop on the CPU is slow: first the group, then the place in it."""
    groups = scores.view(len(scores), -1, BEST_GROUP)
    best = groups.amax(-1).argmax(-1, keepdim=True)
    inner = _rows(groups, best).argmax(-1, keepdim=True)
    return (best * BEST_GROUP + inner).squeeze(1)


def _top(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The best MOST_TOP scores of each row and their ids, best first, the lowest id first among equals.

    They lie in the MOST_TOP groups of the best maxima. Only where more groups than that share a maximum may it depend
    on the device which are taken.
    """
    groups = scores.view(len(scores), -1, TOP_GROUP)
    maxima = groups.amax(-1)
    best = maxima.topk(min(MOST_TOP, maxima.shape[1]), sorted=False).indices
    values, places = _rows(groups, best).topk(MOST_TOP, sorted=False)
    ids = best.gather(1, places // TOP_GROUP) * TOP_GROUP + places % TOP_GROUP
    ids, order = ids.sort()
    values, order = values.gather(1, order).sort(descending=True, stable=True)
    return values, ids.gather(1, order)


def _rows(groups: Tensor, chosen: Tensor) -> Tensor:
    """[rows, groups, ids in one] and the groups chosen in each row, [rows, count] → their scores, [rows, all]."""
    rows, count, _ = groups.shape
    first = torch.arange(0, rows * count, count, device=groups.device)
    return groups.flatten(0, 1).index_select(0, (chosen + first[:, None]).flatten()).view(rows, -1)


def _sample(values: Tensor, ids: Tensor, state: Tensor, uniform: Tensor) -> Tensor:
    """Scores, best first, and their ids, [rows, count] → a token for each row."""
    return ids.gather(1, _draw(values, state, uniform)).squeeze(1)


def _draw(values: Tensor, state: Tensor, uniform: Tensor) -> Tensor:
    """Scores, best first, [rows, count], and numbers from 0 up to 1, float64 [rows] → the places drawn, [rows, 1].

    Weights are whole numbers, so that their sums are exact: neither the order in which a device adds nor what follows
    behind the top-k can change a draw. With weights w_0 ≥ w_1 ≥ …, sums c_i = w_0 + … + w_i, and k of them by top-k,
    top-p keeps up to the first c_j ≥ top_p · c_(k-1), and u draws the first c_i > u · c_j.
    """
    values = values.clamp(-LARGEST, LARGEST)
    weights = ((values - values[:, :1]) / state.view(torch.float32)[:, TEMPERATURE, None]).exp_()
    sums = weights.mul_(2.0**WEIGHT_BITS).floor_().cumsum(-1, dtype=torch.float64)
    mass = sums.gather(1, state[:, LAST, None])
    limit = state.view(torch.float64)[:, TOP_P, None] * mass
    kept = sums.gather(1, torch.searchsorted(sums, limit))
    places: Tensor = torch.searchsorted(sums, uniform[:, None] * kept, right=True)
    return places


def splitmix(seed: int | Tensor, places: Tensor) -> Tensor:
    """The numbers of SplitMix64 from `seed`, one or int64 [n], at each of `places`, int64 [n], the first being 0; as
    numbers from 0 up to 1, float64 [n].

    Only their highest 31 bits, which the last step of its mixing leaves as they are.
    """
    mixed = (places + 1).mul_(GAMMA).add_(seed)
    mixed = (mixed ^ ((mixed >> 30) & (2**34 - 1))).mul_(MIX_1)
    mixed = (mixed ^ ((mixed >> 27) & (2**37 - 1))).mul_(MIX_2)
    return ((mixed >> 33) & (2**31 - 1)).double().mul_(2.0**-31)


def _signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63
