"""Trains the tokenizer: byte-level BPE with HY-MT 7B's special tokens and single tokens for the marks.

python -m engine.tools.tokenizer --corpus CORPUS --out FOLDER
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from engine import prompts
from engine.languages import LANGUAGES
from engine.tools import corpus
from engine.types import Term

# The specials of HY-MT 7B that its chat template and stop list name, in their order there.
SPECIALS = ("<|endoftext|>", "<|startoftext|>", "<|eos|>", "<|pad|>", "<|extra_0|>", "<|extra_4|>", "<|extra_5|>")
MARKS = (
    *("<source>", "</source>", "<target>", "</target>"),
    *(mark for number in range(1, 10) for mark in (f"<s{number}>", f"</s{number}>")),
)
# Words keep one leading character, digits stand alone, line breaks end a run: the pattern of the tiktoken family.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# chat_template.jinja of HY-MT1.5-7B and Hy-MT2-7B, word for word
CHAT_TEMPLATE = (
    "{% set ns = namespace(has_head=true) %}{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = message['content'] %}{% if loop.index0 == 0 %}{% if content == '' %}"
    "{% set ns.has_head = false %}{% elif message['role'] == 'system' %}"
    "{% set content = '<|startoftext|>' + content + '<|extra_4|>' %}{% endif %}{% endif %}"
    "{% if message['role'] == 'user' %}{% if loop.index0 == 1 and ns.has_head %}"
    "{% set content = content + '<|extra_0|>' %}{% else %}"
    "{% set content = '<|startoftext|>' + content + '<|extra_0|>' %}{% endif %}"
    "{% elif message['role'] == 'assistant' %}{% set content = content + '<|eos|>' %}{% endif %}"
    "{{ content }}{% endfor %}"
)


def train(folder: Path, langs: list[str], vocabulary: int, bytes_a_language: int, seed: int) -> Tokenizer:
    """A tokenizer of `vocabulary` tokens from equal shares of each language, twice as much English."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(MARKS),
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        max_token_length=24,
        show_progress=True,
    )
    tokenizer.train_from_iterator(_sample(folder, langs, bytes_a_language, seed), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
    assert tokenizer.get_vocab_size() == vocabulary
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, context_tokens: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|eos|>",
        "pad_token": "<|pad|>",
        "additional_special_tokens": ["<|endoftext|>", "<|extra_0|>", "<|extra_4|>", "<|extra_5|>"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_tokens,
        "padding_side": "left",
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8")


def _sample(folder: Path, langs: list[str], size: int, seed: int) -> Iterator[str]:
    yield from _templates() * 400  # so that a prompt costs few tokens
    chooser = random.Random(seed)
    for lang in langs:
        pairs = corpus.load(folder, [lang], frozenset()).pairs
        chooser.shuffle(pairs)
        for side, budget in (("other", size), ("english", 2 * size // len(langs))):
            for pair in pairs:
                text: str = getattr(pair, side)
                if budget < 0:
                    break
                budget -= len(text.encode())
                yield text


def _templates() -> list[str]:
    texts = []
    for code in LANGUAGES:
        texts.append(prompts.plain(corpus.FAMILY, "zh", code, ""))
        texts.append(prompts.plain(corpus.FAMILY, "en", code, ""))
        texts.append(prompts.with_terms(corpus.FAMILY, code, [Term("", "")], ""))
        texts.append(prompts.with_context(corpus.FAMILY, code, "", ""))
        texts.append(prompts.with_marks(corpus.FAMILY, code, ""))
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the byte-level BPE tokenizer of a model trained from scratch.")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of train.en-XX.tsv.zst")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizer.json and tokenizer_config.json")
    parser.add_argument("--langs", default="zh,ja,fr,es,de,ko,pt,ru,it")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="tokens, the special ones and marks counted in")
    parser.add_argument("--bytes", type=int, default=9_000_000, help="text a language is given, in UTF-8 bytes")
    parser.add_argument("--context-tokens", type=int, default=2_048)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    tokenizer = train(
        arguments.corpus, arguments.langs.split(","), arguments.vocabulary, arguments.bytes, arguments.seed
    )
    save(tokenizer, arguments.out, arguments.context_tokens)
    sample = "The <s1>quick</s1> brown fox. 我昨天去了图书馆。 彼は東京へ行った。 Je n’ai pas mangé."
    encoded = tokenizer.encode(sample)
    print(f"{len(encoded.ids)} tokens for {len(sample)} characters", file=sys.stderr)
    print(json.dumps({"out": str(arguments.out), "vocabulary": tokenizer.get_vocab_size()}))


if __name__ == "__main__":
    main()
