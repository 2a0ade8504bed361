"""A Dockerfile as data: its stages, their steps, and which files of the checkout they may copy. Runs nothing."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Step:
    keyword: str  # RUN, COPY, ENV, …
    flags: tuple[tuple[str, str], ...]  # --mount=type=cache,… is ("mount", "type=cache,…")
    value: str  # all that follows, on one line

    def flag(self, name: str) -> str | None:
        return dict(self.flags).get(name)

    def words(self) -> list[str]:
        """Of the form with brackets, or parted by spaces."""
        return [str(word) for word in json.loads(self.value)] if self.value.startswith("[") else self.value.split()

    def pairs(self) -> dict[str, str]:
        """Of ENV and LABEL; a value may be in quotes."""
        found = re.findall(r'([\w.]+)=("[^"]*"|\S*)', self.value)
        return {name: value.strip('"') for name, value in found}


@dataclass(slots=True)
class Stage:
    base: str  # an image, or the name of a stage before
    name: str
    steps: list[Step] = field(default_factory=list)

    def last(self, keyword: str) -> Step:
        return [step for step in self.steps if step.keyword == keyword][-1]

    def all(self, keyword: str) -> list[Step]:
        return [step for step in self.steps if step.keyword == keyword]


def stages(text: str) -> dict[str, Stage]:
    """By name, in their order."""
    read: dict[str, Stage] = {}
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    stage = Stage("", "")
    for line in re.sub(r"\\\n\s*", "", lines).splitlines():
        if not line.strip():
            continue
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            base, _, name = rest.split()
            stage = read[name] = Stage(base, name)
            continue
        flags = []
        while found := re.match(r"--([\w-]+)=(\S+)\s+", rest):
            flags.append((found[1], found[2]))
            rest = rest[found.end() :]
        stage.steps.append(Step(keyword, tuple(flags), rest))
    return read


def filled(text: str, values: Mapping[str, str]) -> str:
    """As ENV has its variables written: `$NAME` and `${NAME:+what stands there if it is not empty}`."""
    text = re.sub(r"\$\{(\w+):\+([^}]*)\}", lambda found: found[2] if values.get(found[1]) else "", text)
    return re.sub(r"\$(\w+)", lambda found: values.get(found[1], ""), text)


def context(root: Path = ROOT) -> Iterator[Path]:
    """Files that a build may copy, by .dockerignore: of its patterns the last that fits a file, or a folder that it is
    in, decides."""
    lines = (root / ".dockerignore").read_text().splitlines()
    rules = [
        (re.compile(translate(line.removeprefix("!").removeprefix("**/"))), line.startswith("!"), line.startswith("**"))
        for line in lines
        if line and not line.startswith("#")
    ]
    for path in sorted(root.rglob("*")):
        if path.is_dir():
            continue
        place = path.relative_to(root)
        wanted = True
        for pattern, keeps, anywhere in rules:
            whole = [str(place), *map(str, place.parents)]
            if any(pattern.fullmatch(one) for one in (place.parts if anywhere else whole)):
                wanted = keeps
        if wanted:
            yield place
