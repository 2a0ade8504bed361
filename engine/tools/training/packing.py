"""Training examples → batches of packed rows: several examples a row, and where each of them begins and may learn.

Knows the chat layout and the corpus; nothing of the model but that a token may only look back within its own document.
"""

import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from engine.errors import ConfigError, UnsupportedModel, YiwenError
from engine.inference.tokenizer import ChatTokenizer
from engine.tools import corpus
from engine.types import Family

IGNORED = -100  # the label of a place with nothing to learn
AHEAD = 4  # batches that each loader worker makes before they are asked for
MOST_UNUSABLE = 10_000  # examples in a row, after which the corpus is given up


@dataclass(frozen=True, slots=True)
class Encoded:
    ids: list[int]
    first_label: int  # index of the token whose successor is the first to be learnt

    @property
    def labels(self) -> int:
        return len(self.ids) - 1 - self.first_label


class Encoder:
    """An example → ids in a checkpoint's own chat layout: the prompt as it is served, the answer, and its end."""

    def __init__(self, folder: Path) -> None:
        """`folder`: a checkpoint, or a tokenizer alone. Raises `ModelNotFound` and `UnsupportedModel`."""
        self._chat = ChatTokenizer(folder)
        self.tokenizer = self._chat.tokenizer
        if self._chat.end_id is None:
            raise UnsupportedModel(
                f"Neither config.json nor tokenizer_config.json in {str(folder)!r} names an eos token."
            )
        self.begin: int | None = self._chat.begin_id
        self.end: int = self._chat.end_id
        self.pad: int | None = self._chat.pad_id

    def __call__(self, example: corpus.Example) -> Encoded:
        prompt = self._chat.prompt(example.prompt)
        answer = self.tokenizer.encode(example.answer, add_special_tokens=False).ids
        return Encoded([*prompt, *answer, self.end], len(prompt) - 1)


def batches(examples: Iterable[Encoded], data: Mapping[str, Any], *, last: bool = False) -> Iterator[dict[str, Tensor]]:
    """Full batches; with `last` also those that the rest fills in part."""
    following, packer = iter(examples), Packer(data)
    while (batch := packer.pack(following, last=last)) is not None:
        yield batch


class Packer:
    """Packs examples into rows, longest first into the first row with room; what is left over, also where there is no
    more room for labels, waits for the next."""

    def __init__(self, data: Mapping[str, Any], waiting: Iterable[Encoded] = ()) -> None:
        self.waiting = list(waiting)
        self._rows, self._width = int(data["rows"]), int(data["row_tokens"])
        self._label_room = math.ceil(data["label_share"] * self._rows * self._width / 128) * 128

    def fits(self, example: Encoded) -> bool:
        """Whether an empty batch has room for it; what has none is left out."""
        return len(example.ids) <= self._width and example.labels <= self._label_room

    def pack(self, examples: Iterator[Encoded], *, last: bool = False) -> dict[str, Tensor] | None:
        """None where too few examples are left for a whole batch, or with `last` none at all."""
        rows, width = self._rows, self._width
        held = sum(len(each.ids) for each in self.waiting)
        while held < rows * width:
            following = next(examples, None)
            if following is None:
                if last and self.waiting:
                    break
                return None
            if self.fits(following):
                self.waiting.append(following)
                held += len(following.ids)
        self.waiting.sort(key=lambda each: -len(each.ids))
        packed: list[list[Encoded]] = [[] for _ in range(rows)]
        room, labels, left, turn = [width] * rows, self._label_room, list[Encoded](), 0
        for example in self.waiting:
            size = len(example.ids)
            for step in range(rows if example.labels <= labels else 0):
                row = (turn + step) % rows
                if room[row] >= size:
                    packed[row].append(example)
                    room[row] -= size
                    labels -= example.labels
                    turn = (row + 1) % rows
                    break
            else:
                left.append(example)
        self.waiting = left
        return collate(packed, width, self._label_room)


def collate(packed: list[list[Encoded]], width: int, label_room: int) -> dict[str, Tensor]:
    """Tensors of one batch: `ids`, `positions`, `documents` [rows, width] (document 0 is padding); `places`, `labels`
    [label_room]: flat indices of the tokens that predict, and what they should predict (`IGNORED` beyond the last)."""
    rows = len(packed)
    ids, documents, positions = (np.zeros((rows, width), np.int64) for _ in range(3))
    places: list[np.ndarray[Any, Any]] = []
    labels: list[list[int]] = []
    for row, examples in enumerate(packed):
        at = 0
        for number, example in enumerate(examples, start=1):
            end = at + len(example.ids)
            ids[row, at:end] = example.ids
            documents[row, at:end] = number
            positions[row, at:end] = np.arange(end - at)
            places.append(np.arange(row * width + at + example.first_label, row * width + end - 1))
            labels.append(example.ids[example.first_label + 1 :])
            at = end
    place, label = np.concatenate(places), np.concatenate(labels)
    missing = label_room - len(place)
    place, label = np.pad(place, (0, missing)), np.pad(label, (0, missing), constant_values=IGNORED)
    arrays = {"ids": ids, "positions": positions, "documents": documents, "places": place, "labels": label}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@dataclass(frozen=True, slots=True)
class Source:
    """Where examples come from; the same for every rank of a run."""

    corpus: tuple[Path, ...]  # files and folders of pairs, as `pairs.read` takes them
    tokenizer: Path  # a folder with a tokenizer and its chat layout
    data: Mapping[str, Any]  # the recipe's section of that name; with `langs` only pairs of these and English
    mix: Mapping[str, Any]  # the recipe's section: the fields of `corpus.Mix`
    family: Family
    held_out: frozenset[str] = frozenset()  # sides of pairs that are never trained on


class Batches(Iterator[dict[str, Tensor]]):
    """One rank's batches, as `collate` makes them, for ever, from loader workers that each have a share of the corpus.

    With a `state` of another one's `state()` they go on as that one's would have.
    Raises `ConfigError` and what reading raises, here or at the first batch.
    """

    def __init__(
        self,
        source: Source,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
        state: Mapping[str, Any] | None = None,
        pin: bool = False,
    ) -> None:
        """`workers`: processes of this rank; 0 makes the batches in this one. `pin`: into memory that a GPU reads."""
        self._run = {"seed": seed, "rank": rank, "ranks": ranks, "workers": workers}
        self._turn, self._places = 0, [""] * max(1, workers)
        if state is not None:
            for name, value in self._run.items():
                if state[name] != value:
                    raise ConfigError(
                        f"The saved examples are of a run with {name} {state[name]}, not {value}; resume it with what "
                        "it was begun with, or begin a new one."
                    )
            self._turn, self._places = state["turn"], list(state["places"])
        shares = _Shares(source, seed, rank, ranks, self._turn, tuple(self._places))
        self._items: Iterator[Any] = iter(
            DataLoader(
                shares,
                batch_size=None,
                num_workers=workers,
                prefetch_factor=AHEAD if workers else None,
                pin_memory=pin,
                generator=torch.Generator(),  # else it draws from torch's own, and dropout is another after a resume
            )
        )

    def __next__(self) -> dict[str, Tensor]:
        try:
            item = next(self._items)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):  # which was killed
                raise
            raise ConfigError(
                f"A process that makes examples has ended ({str(error).partition(chr(10))[0]}); most often memory is "
                "short: give fewer --workers."
            ) from error
        if isinstance(item, YiwenError):
            self.close()
            raise item
        batch, place = item
        self._places[self._turn] = place
        self._turn = (self._turn + 1) % len(self._places)
        found: dict[str, Tensor] = batch
        return found

    def close(self) -> None:
        """Ends the workers at once. What Python collects late, as all that a traceback holds, waits 5 s for each."""
        self._items = iter(())

    def state(self) -> dict[str, Any]:
        """Where the batches handed out so far end: numbers and strings, some kilobytes."""
        return {**self._run, "turn": self._turn, "places": list(self._places)}


class _Shares(IterableDataset[Any]):
    """What each loader worker iterates: (batch, place after it), or the error that ended that."""

    def __init__(self, source: Source, seed: int, rank: int, ranks: int, turn: int, places: tuple[str, ...]) -> None:
        self._source, self._seed, self._rank, self._ranks = source, seed, rank, ranks
        self._turn, self._places = turn, places

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], str] | YiwenError]:
        info = get_worker_info()
        worker = ((info.id if info else 0) + self._turn) % len(self._places)  # the loader always begins with its first
        try:
            yield from self._share(worker)
        except YiwenError as error:  # raised here, it would come out with a traceback in its text
            yield error

    def _share(self, worker: int) -> Iterator[tuple[dict[str, Tensor], str]]:
        source, number = self._source, self._rank * len(self._places) + worker
        workers = self._ranks * len(self._places)
        share = corpus.load(source.corpus, source.data.get("langs", ()), source.held_out, number, workers)
        start, waiting = corpus.Position(), list[Encoded]()
        if self._places[worker]:
            place = json.loads(self._places[worker])
            if place["pairs"] != len(share.pairs):
                raise ConfigError(
                    f"The corpus has changed since the run was saved: {len(share.pairs):,} pairs in a share, which had "
                    f"{place['pairs']:,}; resume with the corpus it was begun with, or begin a new run."
                )
            start = corpus.Position(place["epoch"], place["place"])
            waiting = [Encoded(ids, first_label) for first_label, ids in place["waiting"]]
        maker = corpus.ExampleMaker(share, corpus.Mix(**source.mix), random.Random(), source.family)
        stream = _Stream(maker, Encoder(source.tokenizer), f"{self._seed} {number}", start, source.data)
        packer = Packer(source.data, waiting)
        while (batch := packer.pack(stream)) is not None:
            place = {
                "pairs": len(share.pairs),
                "epoch": stream.position.epoch,
                "place": stream.position.place,
                "waiting": [[each.first_label, each.ids] for each in packer.waiting],
            }
            yield batch, json.dumps(place)  # as one string, through which torch does not look for tensors


class _Stream(Iterator[Encoded]):
    """Encoded examples that are short enough, for ever, and the position after the last of them."""

    def __init__(
        self,
        maker: corpus.ExampleMaker,
        encode: Encoder,
        seed: str,
        start: corpus.Position,
        data: Mapping[str, Any],
    ) -> None:
        self.position = start
        self._examples, self._encode = maker.examples(seed, start), encode
        self._longest, self._fits = data["longest_example"], Packer(data).fits

    def __next__(self) -> Encoded:
        for _ in range(MOST_UNUSABLE):
            example, self.position = next(self._examples)
            if example is None:
                continue
            encoded = self._encode(example)
            if len(encoded.ids) <= self._longest and self._fits(encoded):
                return encoded
        raise ConfigError(
            f"Of {MOST_UNUSABLE:,} examples none can be learnt from: they are longer than {self._longest} tokens or a "
            "row, or Traditional Chinese for a Simplified target; raise longest_example, row_tokens and label_share, "
            "or give another corpus."
        )
