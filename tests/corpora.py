"""A small parallel corpus, made up for tests and written as the trainer's is."""

from pathlib import Path

import zstandard

FRENCH = (
    ("server", "serveur"),
    ("database", "base de données"),
    ("request", "requête"),
    ("password", "mot de passe"),
    ("garden gate", "portail du jardin"),
    (
        "The server sends a request to the database every night.",
        "Le serveur envoie une requête à la base de données chaque nuit.",
    ),
    (
        "Change your password before you open the garden gate.",
        "Changez votre mot de passe avant d’ouvrir le portail du jardin.",
    ),
    (
        "Run `make_all` now, then wait; it takes 1,250 seconds.",
        "Lancez `make_all` maintenant, puis attendez ; cela prend 1,250 secondes.",
    ),
    (
        "The committee met in Lisbon, and nobody was late.",
        "Le comité s’est réuni à Lisbon, et personne n’était en retard.",
    ),
    (
        "When the database is full, the server stops.",
        "Quand la base de données est pleine, le serveur s’arrête.",
    ),
)
CHINESE = (
    ("library", "图书馆"),
    ("student", "学生"),
    ("The student went to the library yesterday evening.", "学生昨天晚上去了图书馆。"),
    ("Nobody knows why the library was closed today.", "没有人知道图书馆今天为什么关门。"),
    ("The student writes with a pencil in the library.", "學生在圖書館用鉛筆寫字。"),  # Traditional
    ("Every student of this school has read the book.", "這所學校的每個學生都讀過這本書。"),  # Traditional
)
HELD_OUT = ("This sentence is held out of every training.", "Cette phrase est exclue de tout apprentissage.")
LANGS = {"fr": FRENCH, "zh": CHINESE}


def write_corpus(folder: Path, times: int = 1) -> Path:
    """`train.en-fr.tsv.zst` and `train.en-zh.tsv.zst`; the French one holds `HELD_OUT`, with both its sides."""
    folder.mkdir(parents=True, exist_ok=True)
    for lang, pairs in LANGS.items():
        held_out = [HELD_OUT] if lang == "fr" else []
        lines = [f"made-up\t{english}\t{other}\n" for english, other in [*pairs, *held_out] * times]
        path = folder / f"train.en-{lang}.tsv.zst"
        path.write_bytes(zstandard.ZstdCompressor().compress("".join(lines).encode()))
    return folder


def write_tests(folder: Path, times: int = 1) -> Path:
    """`dev.in-domain` and `tatoeba` of both languages; none of their lines but `HELD_OUT` is in the corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    for lang, pairs in LANGS.items():
        lines = [f"made-up\t– {english}\t– {other}\n" for english, other in pairs if english.endswith(".")]
        if lang == "fr":
            lines.append("made-up\t" + "\t".join(HELD_OUT) + "\n")
        for name in ("dev.in-domain", "tatoeba"):
            path = folder / f"{name}.en-{lang}.tsv"
            path.write_text(f"doc\ten\t{lang}\n" + "".join(lines) * times, encoding="utf-8")
    return folder
