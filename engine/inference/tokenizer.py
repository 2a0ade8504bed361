"""Text ↔ ids in a checkpoint's own chat layout. 1.8B and 7B differ in all of it, so everything is read from the folder.

What stands before and after a user's words comes from rendering the checkpoint's chat template once. Special tokens
that a user types are plain text: they never steer the model. Marks alone, where a model has tokens for them, stay so.
"""

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast

from engine.errors import ModelNotFound, UnsupportedModel

_SLOT = "\u2063yiwen\u2063"  # stands for the user's words while the template is rendered
_MARK = re.compile(r"</?(?:source|target|s[0-9]+)>")
_TOKENS = ("eos_token_id", "bos_token_id", "pad_token_id")
# Ends of a turn besides the declared one, looked up by name: llama.cpp's end-of-generation list for HunYuan
_END_NAMES = ("<|endoftext|>", "<|eos|>", "<|extra_5|>", "<｜hy_place▁holder▁no▁2｜>")


class ChatTokenizer:
    """Safe to call from any thread."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "tokenizer.json").exists():
            raise ModelNotFound(f"The folder {str(folder)!r} holds no tokenizer.json.")
        try:
            reader = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
            turn = [{"role": "user", "content": _SLOT}]
            layout = reader.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            self.tokenizer = reader.backend_tokenizer
            ends = _declared_ends(folder)
            self.begin_id, self.end_id, self.pad_id = reader.bos_token_id, reader.eos_token_id, reader.pad_token_id
        except UnsupportedModel:
            raise
        except Exception as error:  # the reader in Rust raises bare ones, Jinja and transformers each their own
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise UnsupportedModel(f"The tokenizer in {str(folder)!r} cannot be read ({reason}).") from error
        before, found, after = layout.partition(_SLOT)
        if not found:
            raise UnsupportedModel(f"The chat template in {str(folder)!r} leaves out the user's words.")
        self._before: list[int] = self.tokenizer.encode(before, add_special_tokens=False).ids
        self._after: list[int] = self.tokenizer.encode(after, add_special_tokens=False).ids
        added = self.tokenizer.get_added_tokens_decoder()
        self._silent = frozenset(id for id, token in added.items() if token.special)
        # 1.8B has control tokens that are not special, such as /think: typed by a user, they are text too
        control = [token.content for token in added.values() if not (token.special or _MARK.fullmatch(token.content))]
        self.tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in control])
        self.tokenizer.encode_special_tokens = True
        if ends and self.end_id not in ends:
            self.end_id = ends[0]
        self.stop_ids = frozenset(ends) | {
            id for name in _END_NAMES if (id := self.tokenizer.token_to_id(name)) is not None
        }

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def prompt(self, text: str) -> list[int]:
        """One user turn, ready to be answered."""
        return [*self._before, *self.tokenizer.encode(text, add_special_tokens=False).ids, *self._after]

    def decoder(self) -> "StreamDecoder":
        return StreamDecoder(self)


class StreamDecoder:
    """Ids one by one → text as soon as its characters are whole. Nothing is cleaned up: spaces are the model's."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer, self._silent = tokenizer.tokenizer, tokenizer._silent
        self._stream = DecodeStream(skip_special_tokens=False)
        self._held: list[int] = []  # what the text given out does not have yet

    def feed(self, id: int) -> str:
        if id in self._silent:
            return ""
        text = self._stream.step(self._tokenizer, id) or ""
        self._held = [] if text else [*self._held, id]
        return text

    def rest(self) -> str:
        """At the end: whole characters that were held back with half of another, which is left out."""
        text: str = self._tokenizer.decode(self._held, skip_special_tokens=False)
        return text.removesuffix("\ufffd")


def _declared_ends(folder: Path) -> list[int]:
    """`eos_token_id` of generation_config.json and config.json; each a number or a list."""
    ends: list[int] = []
    for file in (folder / "generation_config.json", folder / "config.json"):
        if file.exists():
            declared = json.loads(file.read_text(encoding="utf-8"))
            ids = {name: _ids(file, name, declared.get(name)) for name in _TOKENS}
            ends += ids["eos_token_id"]
    return ends


def _ids(file: Path, name: str, declared: object) -> list[int]:
    ids: list[Any] = declared if isinstance(declared, list) else [] if declared is None else [declared]
    if any(type(id) is not int for id in ids):
        raise UnsupportedModel(
            f"{str(file)!r} says {name} {str(declared)[:40]!r}; it must be a whole number or a list of such."
        )
    return ids
