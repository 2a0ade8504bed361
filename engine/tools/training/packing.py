"""Training examples → batches of packed rows: several examples a row, and where each of them begins and may learn.

Knows the chat layout and the corpus; nothing of the model but that a token may only look back within its own document.
"""

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import IterableDataset

from engine.tools import corpus

IGNORED = -100  # the label of a place with nothing to learn


@dataclass(frozen=True, slots=True)
class Encoded:
    ids: list[int]
    first_label: int  # index of the token whose successor is the first to be learnt


class Packed(IterableDataset[dict[str, Tensor]]):
    """Endless batches of packed rows for one rank; each loader worker holds its own share of the corpus."""

    def __init__(self, recipe: dict[str, Any], arguments: argparse.Namespace, rank: int, ranks: int) -> None:
        self.recipe, self.arguments, self.rank, self.ranks = recipe, arguments, rank, ranks

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        worker, workers = self.rank * workers + worker, self.ranks * workers
        held_out = corpus.test_sentences(self.arguments.test)
        share = corpus.load(self.arguments.corpus, self.recipe["data"]["langs"], held_out, worker, workers)
        seed = self.arguments.seed * 1_000_003 + worker
        maker = corpus.ExampleMaker(share, corpus.Mix(**self.recipe["mix"]), random.Random(seed))
        encode = Encoder(self.arguments.tokenizer)
        longest = self.recipe["data"]["longest_example"]
        examples = (encode(example) for example in maker.examples())
        yield from batches((each for each in examples if len(each.ids) <= longest), self.recipe["data"])


class Encoder:
    """An example → ids in the chat layout: `<|startoftext|>` prompt `<|extra_0|>` answer `<|eos|>`."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self.tokenizer.encode_special_tokens = True  # a special token in the text is text
        names = ("<|startoftext|>", "<|extra_0|>", "<|eos|>", "<|pad|>")
        vocabulary = self.tokenizer.get_vocab()
        self.begin, self.turn, self.end, self.pad = (vocabulary[name] for name in names)

    def __call__(self, example: corpus.Example) -> Encoded:
        prompt, answer = (
            self.tokenizer.encode(text, add_special_tokens=False).ids for text in (example.prompt, example.answer)
        )
        return Encoded([self.begin, *prompt, self.turn, *answer, self.end], len(prompt) + 1)


def batches(examples: Iterator[Encoded], data: dict[str, Any]) -> Iterator[dict[str, Tensor]]:
    """Packs examples into rows, longest first into the first row with room; what is left over waits for the next."""
    rows, width = data["rows"], data["row_tokens"]
    waiting: list[Encoded] = []
    held = 0
    while True:
        while held < rows * width:
            following = next(examples, None)
            if following is None:
                return
            waiting.append(following)
            held += len(following.ids)
        waiting.sort(key=lambda each: -len(each.ids))
        packed: list[list[Encoded]] = [[] for _ in range(rows)]
        room, left, turn = [width] * rows, list[Encoded](), 0
        for example in waiting:
            size = len(example.ids)
            for step in range(rows):
                row = (turn + step) % rows
                if room[row] >= size:
                    packed[row].append(example)
                    room[row] -= size
                    turn = (row + 1) % rows
                    break
            else:
                left.append(example)
        waiting, held = left, sum(len(each.ids) for each in left)
        yield collate(packed, width, int(data["label_share"] * rows * width) // 128 * 128)


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
    place, label = np.concatenate(places)[:label_room], np.concatenate(labels)[:label_room]
    missing = label_room - len(place)
    place, label = np.pad(place, (0, missing)), np.pad(label, (0, missing), constant_values=IGNORED)
    arrays = {"ids": ids, "positions": positions, "documents": documents, "places": place, "labels": label}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
