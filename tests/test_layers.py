"""The engine is a stack of layers: a file imports what stands below it, never what stands beside or above."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    ["errors", "log", "version"],
    ["types"],
    ["balance", "cards", "child", "config", "files", "known_models", "languages", "metrics", "progress", "shape"],
    ["alphabets", "licences", "suggestions"],
    [
        "hub",
        "prompts",
        "glossary",
        "segmenter",
        "detect",
        "markup.marks",
        "markup.lexer",
        "markup.templates",
    ],
    [
        "checks",
        "context",
        "markup.in_place",
        "markup.kept",
        "markup.spans",
        "markup.segments",
        "markup.source_places",
        "markup.markdown_parser",
        "markup.page_language",
    ],
    ["markup.inline", "markup.markdown_spans"],
    ["markup.html", "markup.front_matter", "markup.plain", "markup.xml"],
    ["markup.markdown_reading"],
    ["markup.markdown_writing"],
    ["markup.markdown", "markup.changes"],
    ["markup.parse"],
    ["markup.verify"],
    ["markup.preview"],
    ["documents.encoding", "documents.file", "documents.package", "documents.pace"],
    ["documents.xml", "termbase.entries"],
    ["termbase.columns"],
    ["termbase.interchange", "termbase.jsons", "termbase.tables"],
    ["termbase.read", "termbase.write"],
    ["termbase.store"],
    ["documents.runs"],
    ["documents.paragraphs"],
    [
        "documents.catalogues",
        "documents.epub",
        "documents.po",
        "documents.sheets",
        "documents.subtitles",
        "documents.xliff",
    ],
    ["documents.office"],
    [
        "inference.collective",
        "inference.gptq",
        "inference.int8",
        "inference.kernels",
        "inference.kv_cache",
        "inference.large_pages",
        "inference.onnx_api",
        "inference.openvino_api",
        "inference.sampler",
        "inference.tokenizer",
        "inference.weight_files",
        "backends.base",
        "backends.counting",
        "backends.messages",
    ],
    ["inventory"],
    ["footprint"],
    ["divided"],
    ["hardware", "inference.cuda_sampler", "inference.int4", "inference.model"],
    ["inference.sharding"],
    ["devices", "inference.checkpoint", "inference.fused", "inference.held"],
    ["inference.dispatch", "inference.loader", "inference.runner", "inference.openvino_graph", "inference.onnx_graph"],
    [
        "backends.served",
        "inference.batcher",
        "inference.cuda_runner",
        "inference.openvino_runner",
        "inference.onnx_folder",
        "inference.onnx_runner",
    ],
    ["inference.rank_messages"],
    ["inference.parallel", "inference.rank"],
    ["backends.echo", "backends.local", "backends.process", "backends.remote"],
    ["backends.late", "backends.onnx", "backends.ranks"],
    ["backends.pool"],
    ["backends.select", "scheduler"],
    ["answer", "backends.worker", "benchmark", "job"],
    ["alternatives", "attempts", "output"],
    ["translator"],
    ["documents.read", "documents.folder", "documents.workbench"],
    ["documents.store"],
    ["server.clients", "server.errors", "server.keys"],
    [
        "server.access",
        "server.direct",
        "server.download",
        "server.forms",
        "server.headers",
        "server.connections",
        "server.limits",
        "server.origin",
        "server.throttle",
    ],
    ["server.login"],
    ["server.auth"],
    ["server.questions"],
    ["server.answers", "server.incoming"],
    ["server.runs"],
    ["server.deepl_fields", "server.instructions", "server.others"],
    ["server.layouts"],
    ["server.deepl_documents", "server.deepl_glossaries", "server.libretranslate", "server.wrappers"],
    [
        "server.bench",
        "server.closer",
        "server.deepl",
        "server.docs",
        "server.deeplx",
        "server.documents",
        "server.glossaries",
        "server.health",
        "server.immersive",
        "server.openai",
        "server.prometheus",
        "server.rest",
        "server.system",
        "server.tracing",
        "server.websocket",
    ],
    ["server.app"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
UI_SEES = {"benchmark", "translator", "types", "errors", "config", "languages", "documents", "metrics", "termbase"}


def imported(path: Path) -> Iterator[str]:
    """Modules of the engine that a file names, lazily and for type checking too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("engine."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "engine":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"  # `from engine.server import answers` names a module, not a value
                yield inner if inner.removeprefix("engine.") in RANK else str(node.module)


def modules(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if path.name != "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "engine").with_suffix("").parts)


ENGINE = [path for path in modules("engine") if "tools" not in path.parts]


@pytest.mark.parametrize("path", ENGINE, ids=name_of)
def test_a_file_imports_only_what_stands_below_it(path: Path) -> None:
    rank = RANK[name_of(path)]
    assert [module for module in imported(path) if RANK.get(module.removeprefix("engine."), 99) >= rank] == []


@pytest.mark.parametrize("path", modules("ui"), ids=lambda path: path.stem)
def test_the_page_sees_the_door_and_the_values_only(path: Path) -> None:
    assert {module.removeprefix("engine.").partition(".")[0] for module in imported(path)} <= UI_SEES


@pytest.mark.parametrize("path", [*ENGINE, *modules("ui"), ROOT / "app.py"], ids=lambda path: path.stem)
def test_nothing_imports_a_tool(path: Path) -> None:
    assert not any(module.startswith("engine.tools") for module in imported(path))


def test_importing_a_package_loads_nothing() -> None:
    inits = [*(ROOT / "engine").rglob("__init__.py"), *(ROOT / "ui").rglob("__init__.py")]
    assert len(inits) >= 6
    assert [path for path in inits if path.read_text().strip()] == []
