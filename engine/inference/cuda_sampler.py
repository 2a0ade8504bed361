"""The sampler of a card: the tokens of `Sampler`, greedy and by a top-k in one launch of our own kernel.

What was said lies as a bit an id, so that a penalty costs nothing and forgets nothing. A sequence begins with one copy.
Knows no model.
"""

import struct
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.inference import kernels
from engine.inference.sampler import (
    BEST_GROUP,
    DRAWS,
    MADE,
    MOST_TOP,
    NO_PENALTY,
    PENALTY,
    ROW,
    SEED,
    Kind,
    Sampler,
    kind_of,
    row_of,
    splitmix,
)
from engine.types import Sampling

THREADS = 256  # of a block; as in sample.cu
VECTOR_BYTES = 16  # a thread reads so much at once
MOST_PARTS = 32  # of a row, so that merging them takes no longer than reading one
MOST_VECTORS = 8  # of a thread where rows are many; MOST_TOP threads' keys must fit into 48 KB of shared memory
BLOCKS_WANTED = 512  # four for each processor of a large card
WORD_BITS = 32
STATE = ROW.size // 8  # 64-bit words of a slot's row, before the bits of what was said


class CudaSampler(Sampler):
    def __init__(self, slots: int, vocab_size: int, device: str, dtype: torch.dtype) -> None:
        """`dtype`, bf16 or fp16: what 16-bit scores are; those in fp32 are taken too."""
        # bits stand for the list of what was said, and random numbers are computed when they are drawn
        super().__init__(slots, vocab_size, device, length=1, draws=1)
        self._narrow = dtype
        said = np.zeros(-(-vocab_size // BEST_GROUP) * BEST_GROUP, dtype=np.bool_)  # as `_whole_groups` has scores
        self._said_now = said  # while a slot begins; else all False
        # state and bits of a slot lie together, and as many rows in the host's memory that a card copies by itself
        rows = self._state.new_zeros(slots + 1, STATE + len(said) // 64)
        rows[:, :STATE] = self._state
        self._rows, self._state, self._bits = rows, rows[:, :STATE], rows.view(torch.int32)[:, 2 * STATE :]
        on_host = torch.zeros(rows.shape, dtype=torch.int64, pin_memory=True)
        self._copies = list(zip(rows, on_host, on_host.numpy(), strict=True))
        self._copied = [torch.cuda.Event() for _ in range(slots + 1)]  # type: ignore[no-untyped-call]
        self._shifts = torch.arange(WORD_BITS, dtype=torch.int32, device=device)
        most_parts = max(rows * _parts(rows, vocab_size, 4)[0] for rows in range(1, slots + 1))  # fp32 has the more
        self._keys = torch.empty(most_parts * MOST_TOP, dtype=torch.int64, device=device)
        self._done = torch.zeros(slots, dtype=torch.int32, device=device)
        instances = [
            f"CHOOSE_KERNEL({kind}_{bits}, {str(kind == 'greedy').lower()}, {str(bits == 32).lower()})"
            for kind in ("greedy", "top_k")
            for bits in (16, 32)
        ]
        self._kernels = kernels.load([("sample.cu", instances)], (f"-DFP16={int(dtype == torch.float16)}",), device)

    @torch.inference_mode()
    def begin(self, slot: int, sampling: Sampling, seen_ids: Sequence[int], made: int) -> None:
        """As `Sampler.begin`; waits only where the slot began before and the card has not come to that yet."""
        on_card, on_host, words = self._copies[slot]
        punished = sampling.repetition_penalty != 1 and len(seen_ids) > 0
        self._copied[slot].synchronize()
        words[:STATE] = row_of(made, 0 if punished else NO_PENALTY, sampling, self._vocab_size).numpy()
        if punished:
            # struct takes a list in a quarter of the time that numpy needs
            ids = np.frombuffer(struct.pack(f"{len(seen_ids)}q", *seen_ids), dtype=np.int64)
            self._said_now[ids] = True
            words[STATE:] = np.packbits(self._said_now, bitorder="little").view(np.int64)
            self._said_now[ids] = False
        on_card.copy_(on_host, non_blocking=True)
        self._copied[slot].record()
        self._kinds[slot] = kind_of(sampling)

    @torch.inference_mode()
    def choose(self, scores: Tensor, slots: Tensor, kind: Kind) -> Tensor:
        """As `Sampler.choose`, of scores in fp32 or this sampler's dtype, [rows, vocab_size or more], of which what is
        behind `vocab_size` is padding; rows may lie apart. `slots`: int32 or int64."""
        scores = scores[:, : self._vocab_size]
        if kind == "any":
            tokens = super().choose(scores, slots.long(), kind)
            self._say(slots.long(), tokens)
            return tokens
        rows, size = len(scores), scores.element_size()
        if scores.dtype not in (torch.float32, self._narrow) or scores.stride(1) != 1 or rows > len(self._done):
            raise ValueError(
                f"Scores are {scores.dtype} {list(scores.shape)} with strides {scores.stride()}; they must be at most "
                f"{len(self._done)} rows of {self._narrow} or float32, each in one piece."
            )
        parts, vectors = _parts(rows, self._vocab_size, size)
        deep = max(MOST_TOP * -(-vectors // THREADS) * (VECTOR_BYTES // size), parts * MOST_TOP)
        tokens = torch.empty(rows, dtype=torch.int64, device=scores.device)
        self._kernels[f"{kind}_{8 * size}"](
            (parts, rows),
            THREADS,
            scores,
            scores.stride(0),
            self._vocab_size,
            vectors,
            slots.int(),
            self._rows,
            self._rows.stride(0),
            DRAWS,
            self._keys,
            self._done,
            self.tokens,
            tokens,
            shared_bytes=8 * deep if kind == "top_k" else 0,
        )
        return tokens

    def _penalise(self, scores: Tensor, slots: Tensor, state: Tensor, places: Tensor) -> None:
        said = (self._bits[slots][:, :, None] >> self._shifts & 1).flatten(1).bool() & (places >= 0)[:, None]
        penalty = state.view(torch.float32)[:, PENALTY, None]
        scores.copy_(torch.where(said, torch.where(scores > 0, scores / penalty, scores * penalty), scores))

    def _draws(self, slots: Tensor, state: Tensor) -> Tensor:
        return splitmix(state[:, SEED], state[:, MADE] % DRAWS)

    def _say(self, slots: Tensor, tokens: Tensor) -> None:
        word, bit = tokens // WORD_BITS, (1 << tokens % WORD_BITS).int()
        self._bits[slots, word] = self._bits[slots, word] | bit


def _parts(rows: int, vocab_size: int, size: int) -> tuple[int, int]:
    """Into how many parts a row of scores of `size` bytes is cut, and how many vectors a part has."""
    vectors = (vocab_size * size + 2 * VECTOR_BYTES - size - 1) // VECTOR_BYTES  # of rows that begin anywhere
    fewest, most = -(-vectors // (MOST_VECTORS * THREADS)), -(-vectors // THREADS)
    parts = max(fewest, min(most, MOST_PARTS, BLOCKS_WANTED // rows))
    each = -(-vectors // parts)
    return parts, each
