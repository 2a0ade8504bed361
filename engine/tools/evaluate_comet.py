"""Scores answers by COMET, where the user has it: a neural measure that reads source, answer and reference.

`unbabel-comet` is in no requirements of ours: 2.2.7 wants numpy below 2, transformers below 5, huggingface-hub below 1,
so it takes an environment of its own. There answers that `--out` kept here are scored, without a model:

    python -m engine.tools.evaluate quality --test TEST --answers answers.jsonl --comet
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.tools.evaluate_questions import Answer, Question

MODEL = "Unbabel/wmt22-comet-da"
BATCH = 16


def fetch(name: str) -> str:
    """The file of a model: itself, or from the hub, once. Best done before a model is asked for an hour.

    Raises `ConfigError`, also where COMET is not installed.
    """
    try:
        import comet  # type: ignore[import-not-found]  # here, since few have it and it takes seconds
    except ImportError as error:
        raise ConfigError(
            f"COMET cannot be imported ({error}); make an environment of its own, pip install unbabel-comet there, and "
            "score by it what --out has kept here: --answers FILE --comet."
        ) from error
    if Path(name).is_file():
        settings = Path(name).resolve().parents[1] / "hparams.yaml"
        if not settings.is_file():
            raise ConfigError(f"The COMET model {name!r} lacks {str(settings)!r}; fetch it with its whole folder.")
        return name
    try:
        return str(comet.download_model(name))
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(
            f"The COMET model {name!r} cannot be had ({error}); give a file *.ckpt or a model of the hub such as "
            f"{MODEL}."
        ) from error


def load(file: str) -> Any:
    """Raises `ConfigError` for a file that is no model of COMET."""
    from comet import load_from_checkpoint

    try:
        return load_from_checkpoint(file)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(f"The COMET model {file!r} cannot be loaded ({error}); fetch it anew.") from error


def scores(
    model: Any, questions: Sequence[Question], answers: Sequence[Answer], batch: int, on_cpu: bool
) -> list[float]:
    """Of each answer, about 0 to 1. On a card, where there is one, if not `on_cpu`."""
    import torch  # here, since it takes seconds and COMET has loaded it

    cards = 0 if on_cpu else min(1, torch.cuda.device_count())
    lines = [
        {"src": question.read, "mt": answer.text, "ref": question.reference}
        for question, answer in zip(questions, answers, strict=True)
    ]
    return list(model.predict(lines, batch_size=batch, gpus=cards).scores)
