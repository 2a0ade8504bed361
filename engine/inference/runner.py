"""A step of the model for a batch: prefill of new sequences, decode of running ones. Knows no requests or sampling."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.inference.kv_cache import Decode, Prefill, SlotCache
from engine.inference.model import HunYuanDense


class Runner:
    """The model and its cache. Rows of every answer are in slot order."""

    def __init__(self, model: HunYuanDense, slots: int, length: int) -> None:
        config = model.config
        weight = model.norm.weight
        self.model, self.device = model, str(weight.device)
        self.cache = SlotCache(
            config.layers, slots, length, config.kv_heads, config.head_dim, weight.dtype, self.device
        )

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Takes new sequences in; scores of each one's next token: [prompts, vocab_size]."""
        slots = range(len(self.cache.lengths), len(self.cache.lengths) + len(prompts))
        width = max(map(len, prompts))
        ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=self.device)
        positions = torch.arange(width, device=self.device).expand(len(prompts), width)
        hidden = self.model(ids, positions, Prefill(self.cache, slots, width))
        for prompt in prompts:
            self.cache.lengths[self.cache.add()] = len(prompt)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        return self.model.logits(hidden[torch.arange(len(prompts), device=self.device), last])

    @torch.inference_mode()
    def decode(self, tokens: Tensor) -> Tensor:
        """One token of every running sequence, [rows] → scores of the next: [rows, vocab_size]."""
        positions = torch.tensor(self.cache.lengths, device=self.device)
        hidden = self.model(tokens[:, None], positions[:, None], Decode(self.cache, positions))
        self.cache.lengths = [length + 1 for length in self.cache.lengths]
        return self.model.logits(hidden[:, 0])
