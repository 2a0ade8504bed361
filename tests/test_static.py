"""What the page is made of: little, readable, and with nothing from elsewhere."""

import re
from pathlib import Path

STATIC = Path(__file__).parents[1] / "ui" / "static"
SOURCES = sorted(path for path in STATIC.iterdir() if path.suffix in (".js", ".css"))
MOST_LINES = 2_100
NAMESPACE = "http://www.w3.org/"  # a name in SVG, of nothing that is asked for
HOST = re.compile(r"\w://|[\"'`(]//\w")
FROM_TEXT = re.compile(r"\b(?:innerHTML|outerHTML|insertAdjacentHTML|eval|document\.write|new Function)\b")


def found(pattern: re.Pattern[str]) -> list[str]:
    lines = ((path, number, line) for path in SOURCES for number, line in enumerate(read(path), 1))
    return [
        f"{path.name}:{number}: {line}" for path, number, line in lines if pattern.search(line.replace(NAMESPACE, ""))
    ]


def read(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_the_page_stays_small() -> None:
    """A thousand lines are asked for: what is above is to go."""
    assert len(SOURCES) > 1
    assert sum(len(read(path)) for path in SOURCES) <= MOST_LINES


def test_no_line_is_longer_than_120_columns() -> None:
    assert found(re.compile(".{121}")) == []


def test_nothing_names_another_host() -> None:
    assert found(HOST) == []


def test_no_text_is_ever_taken_for_html_or_a_program() -> None:
    assert found(FROM_TEXT) == []
