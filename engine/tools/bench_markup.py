"""Times reading and rebuilding of documents at one size and ten times that, and another reader beside it.

python -m engine.tools.bench markup
"""

import argparse
import gc
import time
from collections.abc import Callable
from typing import Any

import html5lib
from markdown_it import MarkdownIt
from tqdm import tqdm  # type: ignore[import-untyped]

from engine.config import GC_THRESHOLD
from engine.markup.parse import PARSERS, Markup
from engine.markup.spans import rebuild
from engine.tools.asked import amount, count

ABOUT = "MB/s of reading and rebuilding documents"
PROSE = (
    "The committee has not yet decided whether the new bridge should be built next to the old one or a little further "
    "down the river, where the water is deeper but the ground is firm. "
)
HTML = (
    f"<section id=a><h2>The bridge</h2><p>{PROSE}<b>Nobody</b> has asked <a href='/fisher' title='To them'>the "
    f"fishermen</a> &amp; their wives. {PROSE}</p><ul><li>{PROSE}</li><li>See <code>bridge.txt</code>.</li></ul>"
    f"<p>{PROSE}</p></section>\n"
)
MARKDOWN = (
    f"## The bridge\n\n{PROSE}**Nobody** has asked [the fishermen](/fisher) & their\nwives. {PROSE}\n\n- {PROSE}\n"
    f"- See `bridge.txt`.\n\n{PROSE}\n\n"
)
XML = (
    f"<section id='a'>\n  <title>The bridge</title>\n  <p>{PROSE}<b>Nobody</b> has asked <xref to='/fisher'>the "
    f"fishermen</xref> &amp; their wives. {PROSE}</p>\n  <ul>\n    <li>{PROSE}</li>\n    <li><file>it</file></li>\n"
    f"  </ul>\n  <p>{PROSE}</p>\n</section>\n"
)
SAMPLES: dict[Markup, str] = {
    "html": HTML,
    "markdown": MARKDOWN,
    "xml": XML,
    "text": f"{PROSE}\nSee https://bridge.org/a.\n",
}
PEERS: dict[Markup, Callable[[str], object]] = {
    "html": lambda source: html5lib.parse(source, treebuilder="dom"),
    "markdown": MarkdownIt("gfm-like", {"linkify": False}).parse,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mb", type=amount, default=1.0, help="the smaller size; the larger is ten times that")
    parser.add_argument("--repeat", type=count, default=3, help="rounds; the figures are the best")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Megabytes a second of CPU time, the best of some rounds, and by how much ten times the text takes longer."""
    gc.set_threshold(*GC_THRESHOLD)
    sizes = [int(arguments.mb * 1_000_000), int(arguments.mb * 10_000_000)]
    result: dict[str, Any] = {}
    for markup, sample in tqdm(SAMPLES.items(), unit="format"):
        texts = [sample * max(1, size // len(sample)) for size in sizes]
        seconds = [min(_rebuilt(markup, text) for _ in range(arguments.repeat)) for text in texts]
        speeds = [len(text) / 1e6 / spent for text, spent in zip(texts, seconds, strict=True)]
        result[markup] = {
            "mb_a_second": [round(speed, 2) for speed in speeds],
            "time_for_ten_times": round(seconds[1] / seconds[0], 2),
        }
        if peer := PEERS.get(markup):
            alone = min(_timed(lambda: peer(texts[0])) for _ in range(arguments.repeat))  # noqa: B023
            result[markup]["peer_mb_a_second"] = round(len(texts[0]) / 1e6 / alone, 2)
    return result


def _rebuilt(markup: Markup, source: str) -> float:
    parser = PARSERS[markup]

    def once() -> None:
        document = parser.parse(source)
        assert rebuild(document, parser.write, [block.text for block in document.blocks]) == source

    return _timed(once)


def _timed(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def show(result: dict[str, Any]) -> str:
    """The figures as lines to read."""
    lines = []
    for markup in SAMPLES:
        figures = result[markup]
        first, second = figures["mb_a_second"]
        peer = f"; the other reader {figures['peer_mb_a_second']}" if "peer_mb_a_second" in figures else ""
        lines.append(f"{markup}: {first} MB/s, {second} at ten times (× {figures['time_for_ten_times']}){peer}")
    return "\n".join(lines)
