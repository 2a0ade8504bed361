"""The models that Yiwen knows by name: where they are, how large, and under which licence. Data; it looks at nothing.

Sizes are as ModelScope shows them (2026), in 10⁹ bytes: those of 16 bits store their head a second time. What a hub
says when a model is fetched counts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from engine.errors import ModelNotFound

Form = Literal["bf16", "fp8", "gptq-int4"]


@dataclass(frozen=True, slots=True)
class Licence:
    name: str
    address: str
    limits: tuple[str, ...] = ()  # what one has to know before one says yes; none: nobody is asked


@dataclass(frozen=True, slots=True)
class KnownModel:
    name: str
    hub: str  # on Hugging Face, which is what --model takes
    modelscope: str
    form: Form
    gigabytes: float
    licence: Licence
    config: Mapping[str, Any]  # what is known of its config.json

    @property
    def runs(self) -> bool:
        """Whether our engine reads it."""
        return self.form != "fp8"

    def folder(self, data_dir: str) -> Path:
        """Where it is put that comes from elsewhere than Hugging Face; `--model` looks there too."""
        return Path(data_dir).expanduser() / "models" / self.name


# License.txt of HY-MT1.5, of December 30, 2025: sections 1l and 5c, 3e, 5b, 4
TENCENT = Licence(
    "Tencent HY Community License Agreement",
    "https://huggingface.co/tencent/HY-MT1.5-1.8B/blob/main/License.txt",
    (
        "It is not granted in the European Union, the United Kingdom and South Korea: there neither the model nor its "
        "translations may be used.",
        "Whoever offers it to others names who provides the service, in full (--provider), and says that Tencent is "
        "not affiliated with it. The studio shows both.",
        "Translations may not be used to improve other AI models.",
        "Whoever had more than 100 million monthly users at its release needs a licence of Tencent's own.",
    ),
)
APACHE = Licence("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")


def _config(vocab: int, hidden: int, inner: int, heads: int, kv_heads: int) -> Mapping[str, Any]:
    """As far as memory depends on it."""
    return MappingProxyType(
        {
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": 32,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": 128,
            "max_position_embeddings": 262_144,
            "tie_word_embeddings": True,
            "dtype": "bfloat16",
        }
    )


_SMALL = _config(120_818, 2_048, 6_144, 16, 4)  # HY-MT1.5-1.8B's config.json
_LARGE = _config(128_167, 4_096, 14_336, 32, 8)  # Hy-MT2-7B's; HY-MT1.5-7B is taken to be the same
# AngelSlim's, which made them
_GPTQ = MappingProxyType({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}})


def in_int4(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same, quantised."""
    return {**config, **_GPTQ}


def _known(name: str, form: Form, gigabytes: float, licence: Licence, config: Mapping[str, Any]) -> KnownModel:
    suffix = {"bf16": "", "fp8": "-FP8", "gptq-int4": "-GPTQ-Int4"}[form]
    full = name + suffix
    shape = in_int4(config) if form == "gptq-int4" else config
    return KnownModel(full, f"tencent/{full}", f"Tencent-Hunyuan/{full}", form, gigabytes, licence, shape)


KNOWN = (
    _known("Hy-MT2-1.8B", "bf16", 4.1, APACHE, _SMALL),
    _known("Hy-MT2-1.8B", "fp8", 2.1, APACHE, _SMALL),
    _known("Hy-MT2-7B", "bf16", 16.1, APACHE, _LARGE),
    _known("Hy-MT2-7B", "fp8", 8.1, APACHE, _LARGE),
    _known("HY-MT1.5-1.8B", "bf16", 4.1, TENCENT, _SMALL),
    _known("HY-MT1.5-1.8B", "fp8", 2.1, TENCENT, _SMALL),
    _known("HY-MT1.5-1.8B", "gptq-int4", 1.3, TENCENT, _SMALL),
    _known("HY-MT1.5-7B", "bf16", 16.1, TENCENT, _LARGE),
    _known("HY-MT1.5-7B", "fp8", 8.1, TENCENT, _LARGE),
    _known("HY-MT1.5-7B", "gptq-int4", 4.8, TENCENT, _LARGE),
)


def find(name: str) -> KnownModel:
    """By its name or its id on a hub, in any letter case. Raises `ModelNotFound` with those that are spelt alike."""
    asked = name.casefold()
    for model in KNOWN:
        if asked in {each.casefold() for each in (model.name, model.hub, model.modelscope)}:
            return model
    names = {model.name.casefold(): model.name for model in KNOWN}
    near = [names[each] for each in get_close_matches(asked.rpartition("/")[2], names, n=3, cutoff=0.5)]
    meant = f"did you mean {' or '.join(near)}?" if near else "`python app.py models` lists those there are."
    raise ModelNotFound(f"{name[:80]!r} is none of the models that Yiwen knows; {meant}")


def on_hub(name: str) -> KnownModel | None:
    """By its id on Hugging Face."""
    return next((model for model in KNOWN if model.hub.casefold() == name.casefold()), None)


def licence_to_accept(name: str) -> Licence | None:
    """The licence of a hub id, where that has to be accepted. What others made of HY-MT1.5 has its licence too."""
    return TENCENT if re.search(r"hy-?mt-?1\.5", name, re.IGNORECASE) else None
