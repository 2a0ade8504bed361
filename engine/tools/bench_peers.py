"""Other engines on the same weights and prompts: ids in, seconds out. None of them is needed to run Yiwen or its bench.

A peer that is not installed, or fails, is said to be so. It gets the checkpoint as it is where it can read it, else the
same weights in bf16, from which the GGUF is made.
"""

import ctypes
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import transformers

from engine.inference.checkpoint import INT8_METHOD
from engine.tools.bench_gguf import write_gguf
from engine.tools.convert import convert
from engine.types import Sampling

CARD_SHARE = 0.8  # of the card's free memory, for a peer that wants to know beforehand
LLAMA_BATCH_TOKENS = 2_048  # of prompts in one step; llama.cpp's own default
MOST_SEQUENCES = 256  # LLAMA_MAX_SEQ


@dataclass(frozen=True, slots=True)
class Setting:
    """What a peer is to run."""

    checkpoint: Path  # transformers' layout
    scratch: Path  # a folder for what is made of it
    device: str
    sampling: Sampling
    sequences: int  # at once
    tokens: int  # of each, prompt and answer
    threads: int  # of the processor, as many as ours

    def widened(self) -> Path:
        """The checkpoint in bf16, made once."""
        target = self.scratch / "bf16"
        if not target.exists():
            convert(self.checkpoint, target, "bf16")
        return target


class Peer(Protocol):
    about: str  # its version, and what it makes of the weights

    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> float:
        """Seconds until all prompts, taken in at once, have just so many new tokens each."""
        ...

    def close(self) -> None: ...


class Transformers:
    """`generate` of transformers: fp32 on the CPU with as many threads as we have, bf16 on a card."""

    def __init__(self, setting: Setting) -> None:
        transformers.utils.logging.disable_progress_bar()
        dtype = torch.float32 if setting.device == "cpu" else torch.bfloat16
        model = transformers.AutoModelForCausalLM.from_pretrained(setting.widened(), dtype=dtype)
        self._model = model.to(setting.device).eval()
        self._sampling, self._device = setting.sampling, setting.device
        self.about = f"transformers {transformers.__version__} generate, {str(dtype).removeprefix('torch.')}"

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> float:
        began = time.perf_counter()
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = torch.tensor(prompt), 1
        choice: dict[str, Any] = {"do_sample": False, "repetition_penalty": self._sampling.repetition_penalty}
        if self._sampling.temperature:
            names = ("temperature", "top_p", "top_k")
            choice |= {"do_sample": True} | {name: getattr(self._sampling, name) for name in names}
        made = self._model.generate(
            ids.to(self._device),
            attention_mask=mask.to(self._device),
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            **choice,
        ).cpu()
        assert made.shape == (len(prompts), width + new_tokens)
        return time.perf_counter() - began

    def close(self) -> None:
        del self._model


class Vllm:
    """vLLM's `LLM` on the checkpoint as it is, all its own choices but the cache of prompts, which we do not use."""

    def __init__(self, setting: Setting) -> None:
        vllm = import_module("vllm")
        described = json.loads((setting.checkpoint / "config.json").read_text(encoding="utf-8"))
        method = (described.get("quantization_config") or {}).get("quant_method")
        own = method == INT8_METHOD  # no one else reads it
        options: dict[str, Any] = {}
        if setting.device != "cpu":
            free, total = torch.cuda.mem_get_info(setting.device)
            options["gpu_memory_utilization"] = CARD_SHARE * free / total
        self._engine = vllm.LLM(
            model=str(setting.widened() if own else setting.checkpoint),
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=setting.tokens,
            max_num_seqs=setting.sequences,
            enable_prefix_caching=False,
            **options,
        )
        self._options, self._sampling = vllm.SamplingParams, setting.sampling
        self.about = f"vLLM {version('vllm')}, {'bf16' if own else method or 'bf16'}"

    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> float:
        began = time.perf_counter()
        options = self._options(
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            top_k=self._sampling.top_k,
            repetition_penalty=self._sampling.repetition_penalty,
            max_tokens=new_tokens,
            ignore_eos=True,
            detokenize=False,
        )
        made = self._engine.generate([{"prompt_token_ids": list(ids)} for ids in prompts], options, use_tqdm=False)
        assert all(len(each.outputs[0].token_ids) == new_tokens for each in made)
        return time.perf_counter() - began

    def close(self) -> None:
        del self._engine


class _Entry(NamedTuple):
    """A token in a batch of llama.cpp."""

    token: int
    position: int
    row: int
    last: bool  # another is chosen after it


class LlamaCpp:
    """llama.cpp through llama-cpp-python's C functions, as many sequences in one batch as are asked for."""

    def __init__(self, setting: Setting) -> None:
        self._c = c = import_module("llama_cpp")
        file = setting.scratch / "model.gguf"
        write_gguf(setting.widened(), file)
        c.llama_backend_init()
        self._quiet = c.llama_log_callback(lambda level, text, data: None)  # held, or C calls what is gone
        c.llama_log_set(self._quiet, ctypes.c_void_p(0))
        model_options = c.llama_model_default_params()
        model_options.n_gpu_layers = 0 if setting.device == "cpu" else 999
        self._model = c.llama_model_load_from_file(str(file).encode(), model_options)
        if not self._model:
            raise RuntimeError("llama.cpp does not read the GGUF made for it")
        options = c.llama_context_default_params()
        sequences = min(setting.sequences, MOST_SEQUENCES)
        options.n_seq_max = sequences
        options.n_ctx = sequences * (setting.tokens + 256 - setting.tokens % 256)  # it rounds up to 256 each
        options.n_batch = LLAMA_BATCH_TOKENS
        options.n_threads = options.n_threads_batch = setting.threads
        self._context = c.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError("llama.cpp has no memory for its cache")
        self._batch = c.llama_batch_init(LLAMA_BATCH_TOKENS, 0, 1)
        self._sampling, self._tokens = setting.sampling, setting.tokens
        self._vocab_size = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model))
        self.about = f"llama.cpp through llama-cpp-python {version('llama-cpp-python')}, Q4_0, embedding Q8_0"

    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> float:
        c, began = self._c, time.perf_counter()
        c.llama_memory_clear(c.llama_get_memory(self._context), True)
        choosers = [self._chooser(prompt) for prompt in prompts]
        entries = [
            _Entry(token, position, row, position == len(prompt) - 1)
            for row, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        for _ in range(new_tokens):
            following = []
            for first in range(0, len(entries), LLAMA_BATCH_TOKENS):
                following += self._step(entries[first : first + LLAMA_BATCH_TOKENS], choosers)
            assert len(following) == len(prompts)
            entries = following
        for chooser in choosers:
            c.llama_sampler_free(chooser)
        return time.perf_counter() - began

    def _step(self, entries: Sequence[_Entry], choosers: Sequence[Any]) -> list[_Entry]:
        """Computes these; the entries of the tokens that were chosen."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for place, entry in enumerate(entries):
            batch.token[place], batch.pos[place], batch.logits[place] = entry.token, entry.position, entry.last
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, entry.row
        if (failed := self._c.llama_decode(self._context, batch)) != 0:
            raise RuntimeError(f"llama_decode gave {failed}")
        sample = self._c.llama_sampler_sample
        return [
            _Entry(sample(choosers[entry.row], self._context, place), entry.position + 1, entry.row, True)
            for place, entry in enumerate(entries)
            if entry.last
        ]

    def _chooser(self, prompt: Sequence[int]) -> Any:
        c, sampling = self._c, self._sampling
        chain = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
        if sampling.repetition_penalty != 1:
            penalty = (self._vocab_size, self._tokens, sampling.repetition_penalty, 0.0, 0.0)
            c.llama_sampler_chain_add(chain, c.llama_sampler_init_penalties(*penalty))
        if sampling.temperature:
            c.llama_sampler_chain_add(chain, c.llama_sampler_init_top_k(sampling.top_k))
            c.llama_sampler_chain_add(chain, c.llama_sampler_init_top_p(sampling.top_p, 1))
            c.llama_sampler_chain_add(chain, c.llama_sampler_init_temp(sampling.temperature))
            c.llama_sampler_chain_add(chain, c.llama_sampler_init_dist(sampling.seed or 0))
        else:
            c.llama_sampler_chain_add(chain, c.llama_sampler_init_greedy())
        for token in prompt:
            c.llama_sampler_accept(chain, token)
        return chain

    def close(self) -> None:
        self._c.llama_batch_free(self._batch)
        self._c.llama_free(self._context)
        self._c.llama_model_free(self._model)


@dataclass(frozen=True, slots=True)
class Kind:
    modules: tuple[str, ...]  # that must be there
    load: Callable[[Setting], Peer]

    @property
    def installed(self) -> bool:
        return all(find_spec(module) is not None for module in self.modules)


PEERS = {
    "vllm": Kind(("vllm",), Vllm),
    "transformers": Kind(("transformers",), Transformers),
    "llama.cpp": Kind(("llama_cpp", "gguf"), LlamaCpp),
}
