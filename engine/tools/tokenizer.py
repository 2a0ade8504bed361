"""Trains the tokenizer: byte-level BPE with HY-MT 7B's special tokens and single tokens for the marks.

python -m engine.tools.tokenizer --corpus CORPUS --out FOLDER
"""

import argparse
import json
import random
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from engine import prompts
from engine.errors import ConfigError, YiwenError
from engine.languages import LANGUAGES
from engine.tools import corpus
from engine.tools.asked import count
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
TEMPLATE_TIMES = 400  # that each prompt is in the text, so that it costs few tokens
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


def train(
    places: Sequence[Path], langs: Collection[str], vocabulary: int, bytes_a_language: int, seed: int
) -> Tokenizer:
    """A tokenizer of `vocabulary` tokens from equal shares of each language, twice as much English; `langs`: as
    `corpus.load` takes them. Raises `ConfigError`."""
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
    tokenizer.train_from_iterator(_sample(places, langs, bytes_a_language, seed), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
    if (size := tokenizer.get_vocab_size()) != vocabulary:
        raise ConfigError(
            f"The corpus gives a vocabulary of {size:,} tokens, not {vocabulary:,}; give more text, or ask for "
            f"{size:,}."
        )
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


def _sample(places: Sequence[Path], langs: Collection[str], size: int, seed: int) -> Iterator[str]:
    texts: dict[str, list[str]] = {}
    for pair in corpus.load(places, langs).pairs:
        texts.setdefault(pair.first_lang, []).append(pair.first)
        texts.setdefault(pair.lang, []).append(pair.second)
    yield from _templates() * TEMPLATE_TIMES
    chooser = random.Random(seed)
    for lang in sorted(texts):
        chooser.shuffle(texts[lang])
        budget = 2 * size if lang == "en" else size
        for text in texts[lang]:
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
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="files or folders of pairs")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizer.json and tokenizer_config.json")
    parser.add_argument("--langs", help="as zh,ja: only pairs of these and English; all where none is named")
    parser.add_argument(
        "--vocabulary", type=count, default=32_000, help="tokens, the special ones and marks counted in"
    )
    parser.add_argument("--bytes", type=count, default=9_000_000, help="text a language is given, in UTF-8 bytes")
    parser.add_argument("--context-tokens", type=count, default=2_048)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    langs = arguments.langs.split(",") if arguments.langs else []
    try:
        tokenizer = train(arguments.corpus, langs, arguments.vocabulary, arguments.bytes, arguments.seed)
        save(tokenizer, arguments.out, arguments.context_tokens)
    except (YiwenError, OSError) as error:
        raise SystemExit(str(error)) from error
    sample = "The <s1>quick</s1> brown fox. 我昨天去了图书馆。 彼は東京へ行った。 Je n’ai pas mangé."
    encoded = tokenizer.encode(sample)
    print(f"{len(encoded.ids)} tokens for {len(sample)} characters", file=sys.stderr)
    print(json.dumps({"out": str(arguments.out), "vocabulary": tokenizer.get_vocab_size()}))


if __name__ == "__main__":
    main()
