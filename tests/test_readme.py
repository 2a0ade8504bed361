"""README.md, in English and in Chinese: what it names is there, and what it shows is run."""

import ast
import importlib
import inspect
import io
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import fields
from functools import cache
from itertools import chain
from pathlib import Path
from urllib.parse import unquote

import docx
import httpx
import pytest

from engine.backends.echo import EchoBackend
from engine.config import Config
from tests.conftest import Serve, soon

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE, MAP = ROOT / "README.md", ROOT / "assets/README.zh-CN.md", ROOT / "engine/README.md"
READMES = (ENGLISH, CHINESE)
SPOKEN = pytest.mark.parametrize("readme", READMES, ids=["English", "Chinese"])
HERE = re.compile(r"(?:https?://|ws://)?(?:localhost|127\.0\.0\.1):7860")
START = {"YIWEN_VENV", "YIWEN_LANG", "--download"}  # assets/start.py's
NO_ROUTES = {"/models", "/models/NAME", "/data", "/tmp"}  # folders
MODULE = re.compile(r"-m ((?:engine\.tools|tests)\.[a-z][\w.]*)((?: (?!-m\b)[^`|&#\n]+)?)")
WITH_PARTS = {f"engine.tools.{name}" for name in ("bench", "evaluate", "keys", "models")}
OTHERS = {"--gpus", "--build-arg", "--tensor-parallel-size", "--num_processes"}  # of Docker, vLLM, Accelerate
LEAST = 12  # letters of a sentence that are looked for


@cache
def text(readme: Path) -> str:
    """Without its front matter; lines that a backslash cuts are whole again."""
    found = re.sub(r"\A---\n.*?\n---\n", "", readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r" *\\\n *", " ", found)


def blocks(readme: Path) -> list[tuple[str, str]]:
    """(language, code) of each."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text(readme), re.DOTALL | re.MULTILINE)


def prose(readme: Path) -> str:
    return re.sub(r"^```\w*\n.*?^```$", "", text(readme), flags=re.DOTALL | re.MULTILINE)


def inline(readme: Path) -> list[str]:
    return [re.sub(r"\s+", " ", code) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(readme))]


def codes(readme: Path) -> Iterator[str]:
    yield from inline(readme)
    for _, code in blocks(readme):
        yield from code.splitlines()


def settings(readme: Path) -> list[str]:
    """The flags of its table of settings."""
    table = re.search(r"^\| `--model` \| `embedded` .*?^$", text(readme), re.DOTALL | re.MULTILINE)
    assert table
    return [flag for row in table[0].splitlines() for flag in re.findall(r"`(--[\w-]+)`", row.split(" | ")[0])]


# ------------------------------------------------------------------------------------------------ flags, routes, tools


@SPOKEN
def test_its_settings_are_all_flags_that_there_are(readme: Path) -> None:
    assert sorted(settings(readme)) == sorted(f"--{field.name.replace('_', '-')}" for field in fields(Config))


@SPOKEN
def test_the_variables_it_names_exist(readme: Path) -> None:
    ours = {f"YIWEN_{field.name.upper()}" for field in fields(Config)}
    assert set(re.findall(r"YIWEN_[A-Z_]+\b(?<!_)", text(readme))) <= ours | START
    assert all(name in (ROOT / "assets/start.py").read_text(encoding="utf-8") for name in START)


@SPOKEN
def test_its_table_of_defaults_is_true(readme: Path) -> None:
    told = {}
    for row in re.findall(r"^\| (`--[^|]+) \| ([^|]+) \|", text(readme), re.MULTILINE):
        flags, values = re.findall(r"`(--[\w-]+)`", row[0]), re.split(", |、", row[1])
        told |= dict(zip(flags, values * len(flags) if len(values) == 1 else values, strict=True))
    for field in fields(Config):
        said = told[f"--{field.name.replace('_', '-')}"].strip("`").replace(",", "")
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        assert said in ({"none", "无", "off", "auto"} if default in (None, (), "") else {str(default)}), field.name


def test_the_flags_it_gives_to_the_program_exist() -> None:
    known = {f"--{field.name.replace('_', '-')}" for field in fields(Config)} | {"--help"}
    asked = [code for code in codes(ENGLISH) if re.search(r"python app\.py (?!models)", code)]
    assert asked
    given = {flag for code in asked for flag in re.findall(r"(--[\w-]+)", code.split("app.py")[1])}
    assert given <= known


def test_it_names_every_route_and_none_that_is_not_there(address: str) -> None:
    said = HERE.sub("", "\n".join(codes(ENGLISH)))
    for path in httpx.get(f"{address}/openapi.json").json()["paths"]:
        pattern = re.sub(r"\\{\w+\\}", r"[\\w…]+", re.escape(path))
        assert re.search(rf"(?<![\w/]){pattern}(?![\w/])", said), path
    named = set(re.findall(r"(?<![\w./~>-])/[a-z][\w/-]*(?=$|[?\s`,;'\"])", said, re.MULTILINE))
    for path in sorted(named - NO_ROUTES - {"/ws/translate"}):
        assert "Nothing is at this address" not in httpx.options(address + re.sub(r"\bID\b", "1", path)).text, path


def commands() -> list[tuple[str, str, frozenset[str]]]:
    """(module, the part of it that is named or nothing, flags) of every program of ours that a README names."""
    found = set()
    for code in chain.from_iterable(map(codes, (*READMES, MAP))):
        for module, rest in MODULE.findall(code.replace("app.py models", "-m engine.tools.models")):
            words = rest.split()
            part = words[0] if words and module in WITH_PARTS and not words[0].startswith("-") else ""
            found.add((module, part, frozenset(re.findall(r"(?<!\S)--[\w-]+", rest))))
    return sorted(found, key=str)


@pytest.mark.parametrize("module", sorted({module for module, _, _ in commands()}))
def test_the_programs_it_names_take_the_flags_it_gives(module: str) -> None:
    for name, part, flags in commands():
        assert name != module or flags <= flags_of(module, part), f"{module} {part}"


@SPOKEN
def test_flags_that_it_names_alone_are_of_a_program_of_ours(readme: Path) -> None:
    named = {flag for code in inline(readme) if code.startswith("--") for flag in re.findall(r"(?<!\S)--[\w-]+", code)}
    ours = {*settings(readme), "--help"}.union(*(flags_of(module, part) for module, part, _ in commands()))
    assert named - OTHERS - START <= ours


@cache
def flags_of(module: str, part: str) -> frozenset[str]:
    """Those that its --help tells."""
    main, words = importlib.import_module(module).main, [*([part] if part else []), "--help"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.setattr(sys, "argv", [module, *words])
        with pytest.raises(SystemExit) as end:
            main(*([words] if inspect.signature(main).parameters else []))
    assert not end.value.code, f"{module} {part}"
    return frozenset(re.findall(r"--[\w-]+", said.getvalue()))


def test_every_tool_is_named_here_or_on_the_map() -> None:
    tools = {
        path.stem for path in (ROOT / "engine/tools").glob("*.py") if '\nif __name__ == "__main__":' in path.read_text()
    }
    said = text(ENGLISH) + text(MAP)
    assert len(tools) > 10
    assert {tool for tool in tools if not re.search(rf"\b{tool}\b", said)} == set()


# ------------------------------------------------------------------------------------------------------- what it shows


@pytest.fixture(scope="module")
def address(serve: Serve) -> str:
    return serve(EchoBackend())


class Curl:
    """A command line of curl, said by httpx: -d, -F, -H, -X and an address. `ID` is that of what was made before."""

    def __init__(self, address: str, folder: Path) -> None:
        self._address = address
        self._folder = folder
        self._made: dict[str, tuple[list[str], str]] = {}  # "documents" → how one is made, and its id

    def say(self, words: list[str]) -> httpx.Response:
        method, data, parts, headers, url = "", [], [], {}, ""
        rest = iter(words)
        for word in rest:
            if re.fullmatch("-[sNOJX]+", word):
                method = next(rest) if "X" in word else method
            elif word == "-d":
                data.append(next(rest))
            elif word == "-F":
                name, _, value = next(rest).partition("=")
                parts.append((name, self._part(value)))
            elif word == "-H":
                name, _, value = next(rest).partition(": ")
                headers[name] = value
            else:
                url = HERE.sub(self._address, word, count=1)
        kind = url.removeprefix(self._address).split("/")[1]
        if re.search(r"\bID\b", url):
            url = re.sub(r"\bID\b", self._id(kind), url)
        if data:
            headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
        method = method or ("POST" if data or parts else "GET")
        content = "&".join(data).encode() or None
        answer = httpx.request(method, url, content=content, files=parts or None, headers=headers, timeout=30)
        if (
            method == "POST"
            and url.endswith(f"/{kind}")
            and answer.headers["Content-Type"] == "application/json"
            and "id" in answer.json()
        ):
            self._made[kind] = words, answer.json()["id"]
        if method == "DELETE":
            self._made[kind] = self._made[kind][0], ""
        return answer

    def _id(self, kind: str) -> str:
        words, made = self._made[kind]
        if not made:
            self.say(words)
            made = self._made[kind][1]
        if kind == "documents":
            soon(lambda: httpx.get(f"{self._address}/documents/{made}").json()["status"] == "done")
        return made

    def _part(self, value: str) -> tuple[str | None, bytes]:
        if not value.startswith("@"):
            return None, value.encode()
        return value[1:], (self._folder / value[1:]).read_bytes()


@pytest.fixture(scope="module")
def curl(address: str, tmp_path_factory: pytest.TempPathFactory) -> Curl:
    folder = tmp_path_factory.mktemp("files")
    (folder / "terms.csv").write_text("source,target\nriver,Fluss\n")
    report = docx.Document()
    for number in range(8):
        report.add_paragraph(f"The river {number} is wide.")
    report.add_paragraph("A word in ").add_run("bold").bold = True
    first = report.paragraphs[7]
    first.clear()
    first.add_run("A ")
    first.add_run("bold").bold = True
    first.add_run(" word.")
    report.save(str(folder / "report.docx"))
    return Curl(address, folder)


def test_its_examples_for_curl_are_answered(curl: Curl) -> None:
    lines = [line for _, code in blocks(ENGLISH) for line in code.splitlines() if line.startswith("curl ")]
    assert len(lines) > 15
    for line in lines:
        answer = curl.say(shlex.split(line, comments=True)[1:])
        assert answer.is_success, f"{line}\n{answer.status_code} {answer.text}"
        assert '"type": "error"' not in answer.text
        if "-sOJ" in line:
            assert "filename" in answer.headers["Content-Disposition"]


@pytest.mark.parametrize("code", [code for language, code in blocks(ENGLISH) if language == "python"])
def test_its_examples_in_python_run(code: str, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = HERE.sub(lambda said: address.replace("http", said[0].partition("://")[0]), code)
    assert found != code
    exec(compile(found, "README.md", "exec"), {})
    if "print" in code:
        assert re.search("cat|river", capsys.readouterr().out)


# --------------------------------------------------------------------------------------------------- where it leads to


def slug(heading: str) -> str:
    """As GitHub makes one of it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def links(readme: Path) -> list[str]:
    said = prose(readme)
    return re.findall(r"\]\(([^)\s]+)\)", said) + re.findall(r'src="([^"]+)"', said)


def file_of(readme: Path, link: str) -> Path:
    return (readme.parent / unquote(link.partition("#")[0])).resolve() if not link.startswith("#") else readme


@SPOKEN
def test_its_links_lead_somewhere(readme: Path) -> None:
    inside = [link for link in links(readme) if not link.startswith("http")]
    assert len(inside) > 20
    for link in inside:
        path, anchor = file_of(readme, link), link.partition("#")[2]
        assert path.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), link


def test_its_pictures_are_small_and_each_is_shown() -> None:
    there = {path.name: path.stat().st_size for path in (ROOT / "assets/screenshots").iterdir()}
    shown = {Path(link).name for readme in READMES for link in links(readme) if link.endswith(".png")}
    assert shown == set(there)
    assert max(there.values()) <= 150_000
    assert sum(there.values()) <= 1_000_000


# -------------------------------------------------------------------------------------------------------- what it says


@cache
def sentences() -> str:
    """What the program may say: its texts, with a line's end where something is filled in."""
    return "\0".join(_texts())


def _texts() -> Iterator[str]:
    sources = (ROOT / "app.py", *(ROOT / "engine").rglob("*.py"), *(ROOT / "assets").glob("*.py"))
    for node in chain.from_iterable(ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for path in sources):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\n" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"\{\w+\}", "\n", node.value)


@SPOKEN
def test_what_it_says_of_errors_is_what_the_program_says(readme: Path) -> None:
    table = re.search(r"^\| `Unknown flag …; .*?^$", text(readme), re.DOTALL | re.MULTILINE)
    assert table
    told = [said for row in table[0].splitlines() for said in re.findall("`([^`]+)`", row.split(" | ")[0])]
    assert len(told) > 25
    for said in told:
        parts = [part.strip(" ();:") for part in said.split("…")]
        longest = max(parts, key=len)
        assert len(longest) >= LEAST, said
        assert all(part in sentences() for part in parts if len(part) >= LEAST), said


# ---------------------------------------------------------------------------------------------------------- in Chinese


def test_in_chinese_it_has_the_same_examples_flags_links_and_tables() -> None:
    def examples(readme: Path) -> list[str]:
        return [re.sub(r"\s+(#|→).*$", "", code, flags=re.MULTILINE) for _, code in blocks(readme)]

    def places(readme: Path) -> list[str]:
        """Where its links lead, whatever the headings are called; a picture in either language is the same."""
        found = (link if link.startswith("http") else str(file_of(readme, link)) for link in links(readme))
        return sorted(re.sub("-(zh|en).png", "", place) for place in found if place not in map(str, READMES))

    def rows(readme: Path) -> list[int]:
        return [table.count("\n") for table in re.findall(r"(?:^\|.*\n)+", text(readme), re.MULTILINE)]

    def levels(readme: Path) -> list[str]:
        return re.findall(r"^(#+) ", prose(readme), re.MULTILINE)

    assert examples(CHINESE) == examples(ENGLISH)
    assert settings(CHINESE) == settings(ENGLISH)
    assert places(CHINESE) == places(ENGLISH)
    assert rows(CHINESE) == rows(ENGLISH)
    assert levels(CHINESE) == levels(ENGLISH)


def test_in_chinese_it_names_the_same_flags_variables_and_routes() -> None:
    def named(readme: Path) -> set[str]:
        return set(re.findall(r"--[a-z][\w-]+|\bYIWEN_\w+|(?<![\w./])/[a-z]\w+", " ".join(codes(readme))))

    assert named(CHINESE) == named(ENGLISH)


def test_the_plans_are_the_same_in_both() -> None:
    def plans(readme: Path) -> list[str]:
        return re.findall("<!-- plans -->.*<!-- /plans -->", text(readme), re.DOTALL)

    assert plans(CHINESE) == plans(ENGLISH) != []
