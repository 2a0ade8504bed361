"""Every sentence that the engine may say to a user of the page is there in Chinese, with all of its values."""

import ast
import itertools
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from engine.backends.counting import SAMPLES
from engine.languages import LANGUAGES
from engine.server import health
from tests.studio import a_browser

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "engine"
STATIC = ROOT / "ui" / "static"
TABLE: dict[str, str] = json.loads((STATIC / "sentences.zh.json").read_text(encoding="utf-8"))
AT_START = {"config", "known_models", "server.keys"}  # these speak before there is a server, to whoever starts it
IN_BOTH = {"server.login"}  # has its words in Chinese beside them
MESSAGE_AT = {"Warning": 1, "Problem": 2, "Fault": 1}  # which argument of these is read by people
# Not said but translated: by the self-test, by the benchmark, in an example of the API; or counted.
TRANSLATED = {*health.SENTENCES.values(), *SAMPLES, "{}, and {}.", "Un mot <s1>gras</s1>."}
INTERNAL = {"ValueError", "RuntimeError", "AssertionError", "TypeError", "KeyError", "Unverifiable", "Field"}
SENTENCE = re.compile(r"[A-Z“{\w-].*\s.*\s.*[.?](?: ?\{\})?", re.DOTALL)
MOST_FORMS = 40  # of one sentence


class Module:
    """What a file says: each sentence as a template, {} for a value; what is put together on the way is put in."""

    def __init__(self, path: Path) -> None:
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.nodes = [self.tree, *self.parents]
        self.functions = {node.name: node for node in self.nodes if isinstance(node, _FUNCTION)}
        self.calls = [node for node in self.nodes if isinstance(node, ast.Call)]
        self.words = set(self._words())

    def sentences(self) -> Iterator[str]:
        for node in self.nodes:
            if isinstance(node, ast.JoinedStr | ast.Constant | ast.BinOp) and self._is_said(node):
                asked = self._is_for_people(node)
                yield from (form for form in self.forms(node) if (asked and " " in form) or SENTENCE.fullmatch(form))

    def forms(self, node: ast.AST, calls: tuple[str, ...] = ()) -> list[str]:
        """The templates that an expression may be."""
        match node:
            case ast.Constant(value=str(text)):
                return [re.sub(r"\{\w+(?::[^{}\s]*)?\}", "{}", text)]
            case ast.Constant(value=None):
                return []
            case ast.JoinedStr(values=parts):
                return self._product([self.forms(part, calls) for part in parts])
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._product([self.forms(left, calls), self.forms(right, calls)])
            case ast.FormattedValue(value=value, format_spec=None, conversion=-1):
                return self.forms(value, calls)
            case ast.IfExp(body=one, orelse=other):
                return [*self.forms(one, calls), *self.forms(other, calls)]
            case ast.BoolOp(op=ast.Or(), values=values):
                return [form for value in values for form in self.forms(value, calls)]
            case ast.Name(id=name) if name not in calls and (sources := self._sources(node, name)):
                return [form for source in sources for form in self.forms(source, (*calls, name))]
            case ast.Call(func=ast.Name(id=name)) if name in self.functions and name not in calls:
                returned = [one.value for one in ast.walk(self.functions[name]) if isinstance(one, ast.Return)]
                forms = [form for one in returned if one for form in self.forms(one, (*calls, name))]
                return forms if all(" " in form for form in forms) else ["{}"]  # words, not what is made of a value
        return ["{}"]

    @staticmethod
    def _product(parts: list[list[str]]) -> list[str]:
        joined = ("".join(forms) for forms in itertools.product(*parts))
        return list(dict.fromkeys(re.sub(r"(?:\{\}){2,}", "{}", form) for form in itertools.islice(joined, MOST_FORMS)))

    def _sources(self, node: ast.AST, name: str) -> list[ast.AST]:
        """What a name in a function stands for: what it was assigned there, or what its callers in the file give."""
        function = self._above(node, _FUNCTION)
        if not isinstance(function, _FUNCTION):
            return []
        given = [one.arg for one in function.args.args]
        if name in given:
            place = given.index(name) - (given[0] == "self")
            called = [one for one in self.calls if _name(one) == function.name]
            return [one.args[place] for one in called if len(one.args) > place]
        loop = self.parents[node]
        while loop is not function and not (isinstance(loop, ast.For) and _binds(loop.target, name)):
            loop = self.parents[loop]
        if loop is not function:
            return []
        assigned = [one for one in ast.walk(function) if isinstance(one, ast.Assign | ast.NamedExpr)]
        bound = [
            pair
            for one in assigned
            for target in (one.targets if isinstance(one, ast.Assign) else [one.target])
            for pair in (
                zip(target.elts, one.value.elts, strict=False)
                if isinstance(target, ast.Tuple) and isinstance(one.value, ast.Tuple)
                else [(target, one.value)]
            )
        ]
        return [value for target, value in bound if getattr(target, "id", "") == name and value.lineno <= node.lineno]

    def _above(self, node: ast.AST, kind: tuple[type[ast.AST], ...]) -> ast.AST | None:
        while (node := self.parents.get(node)) and not isinstance(node, kind):
            pass
        return node

    def _is_said(self, node: ast.AST) -> bool:
        """Not part of another string, a docstring, a log's line, or a mistake of our own."""
        parent = self.parents[node]
        if isinstance(parent, ast.JoinedStr | ast.FormattedValue | ast.BinOp | ast.Expr | ast.Assert):
            return False
        while not isinstance(parent, ast.stmt):
            if isinstance(parent, ast.keyword) and parent.arg == "examples":
                return False
            if isinstance(parent, ast.Call) and (_name(parent) in INTERNAL or _object(parent) in ("log", "api")):
                return False
            parent = self.parents[parent]
        return not isinstance(parent, _FUNCTION)  # a decorator or a default

    def _is_for_people(self, node: ast.AST) -> bool:
        """Whatever it looks like: the message of an error or a warning, or a field that is named in one."""
        parent = self.parents[node]
        if isinstance(parent, ast.Call) and node in parent.args:
            return parent.args.index(node) == MESSAGE_AT.get(_name(parent), 0 if _name(parent) in errors() else -1)
        return isinstance(parent, ast.Dict) and node in parent.values and self._name_of(parent) in self.words

    def _words(self) -> Iterator[str]:
        """The dicts whose values are looked up in a string, or gone through until one fits and is told."""
        for node in self.nodes:
            if isinstance(node, ast.Subscript) and isinstance(self.parents[node], ast.FormattedValue):
                yield getattr(node.value, "id", "")
            elif isinstance(node, ast.For) and _name(node.iter) == "items" and _raises(node):
                yield _object(node.iter)

    def _name_of(self, value: ast.AST) -> str:
        match self.parents[value]:
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                return name
        return ""

    def fields(self) -> Iterator[str]:
        """What the fields of a request must be, by their descriptions."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.endswith("TermFields"):  # those of a term are not told
                said = (one for one in ast.walk(node) if isinstance(one, ast.keyword) and one.arg == "description")
                yield from (form for one in said for form in self.forms(one.value))


_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def _name(call: ast.AST) -> str:
    function = call.func if isinstance(call, ast.Call) else None
    return getattr(function, "id", "") or getattr(function, "attr", "")


def _binds(target: ast.AST, name: str) -> bool:
    return any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(target))


def _raises(node: ast.AST) -> bool:
    return any(isinstance(one, ast.Raise) for one in ast.walk(node))


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _object(call: ast.AST) -> str:
    function = call.func if isinstance(call, ast.Call) else None
    return getattr(getattr(function, "value", None), "id", "")


@cache
def modules() -> dict[str, Module]:
    paths = {".".join(path.relative_to(ENGINE).with_suffix("").parts): path for path in sorted(ENGINE.rglob("*.py"))}
    return {
        name: Module(path)
        for name, path in paths.items()
        if name not in AT_START | IN_BOTH and not name.startswith("tools.")
    }


@cache
def errors() -> set[str]:
    """The names of all our errors, wherever they are defined."""
    names, before = {"YiwenError"}, 0
    classes = [node for module in modules().values() for node in module.nodes if isinstance(node, ast.ClassDef)]
    while len(names) > before:
        before = len(names)
        names |= {node.name for node in classes if any(getattr(base, "id", "") in names for base in node.bases)}
    return names


def licences() -> Iterator[str]:
    """Of the models that Yiwen knows, as the page shows them."""
    (known,) = (
        node.value
        for node in modules()["inference.loader"].tree.body
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "_LICENCES" and node.value
    )
    yield from ast.literal_eval(known).values()
    for path in (ROOT / "assets").glob("models/*/config.json"):
        yield json.loads(path.read_text(encoding="utf-8"))["yiwen"]["licence"]


@cache
def said() -> dict[str, str]:
    """Each sentence, and the file that says it."""
    found = {sentence: name for name, module in modules().items() for sentence in module.sentences()}
    found |= dict.fromkeys(modules()["server.questions"].fields(), "server.questions")
    found |= dict.fromkeys(licences(), "inference.loader")
    return {sentence: file for sentence, file in found.items() if sentence not in TRANSLATED}


def size(template: str) -> int:
    return len(template.replace("{}", ""))


@cache
def templates() -> list[tuple[str, re.Pattern[str]]]:
    """The most specific first, as static/sentences.js has them."""
    flags = re.DOTALL | re.IGNORECASE
    ordered = sorted(TABLE, key=size, reverse=True)
    return [(one, re.compile("(.*?)".join(map(re.escape, one.split("{}"))), flags)) for one in ordered]


@cache
def fitting(sentence: str) -> list[tuple[str, tuple[str, ...]]]:
    """Each template that fits, with the values it finds."""
    found = ((one, pattern.fullmatch(sentence)) for one, pattern in templates())
    return [(one, match.groups()) for one, match in found if match]


def used(sentence: str) -> set[str]:
    """The templates that a sentence and its values take."""
    parts = re.split(", | and | or ", sentence)
    if parts[1:] and all(map(fitting, parts)):
        return set().union(*map(used, parts))
    if not (fits := fitting(sentence)):
        assert " " not in sentence, f"not a value, and not in sentences.zh.json: {sentence}"
        return set()
    template, values = fits[0]
    return {template}.union(*map(used, values))


def example(template: str) -> str:
    """The sentence with a value of its own in each place."""
    numbers = itertools.count()
    return re.sub(r"\{\}", lambda _: f"v{next(numbers)}w", template)


def test_every_sentence_is_there_in_chinese() -> None:
    assert len(said()) > 200
    assert {sentence: file for sentence, file in said().items() if not fitting(example(sentence))} == {}
    assert all(used(example(sentence)) for sentence in said())


def test_no_two_templates_fit_a_sentence_equally_well() -> None:
    sizes = {sentence: [size(one) for one, _ in fitting(example(sentence))[:2]] for sentence in said()}
    assert [sentence for sentence, best in sizes.items() if len(set(best)) < len(best)] == []


def test_every_value_is_there_in_chinese_too() -> None:
    places = {one: sorted(map(int, re.findall(r"\{(\d)\}", chinese))) for one, chinese in TABLE.items()}
    assert [one for one in TABLE if places[one] != list(range(one.count("{}")))] == []


def test_no_template_is_of_a_sentence_that_nobody_says() -> None:
    needed = used(FETCHED).union(*(used(example(sentence)) for sentence in said()))
    strings = {form for one in modules().values() for node in one.nodes if _is_string(node) for form in one.forms(node)}
    assert TABLE.keys() - strings - needed == set()


# A reason put together from many parts
FETCHED = (
    "The model needs at least 15.3 GB on cuda:0 (15.0 of them for its weights in bf16), and L4 (cuda:0) has 7.6 of "
    "8.6 GB free, 7.2 of them for the model, so of its 32 layers it keeps 8 (3.5 GB) on cuda:0, and fetches 8 "
    "(3.5 GB) from the machine's memory and 16 (7.0 GB) from its disk at every step, which is much slower; better "
    "raise --max-vram-gb to 16.4, use a smaller model or make a copy in INT4 with `python -m "
    "engine.tools.quantize`. Weights in bf16, a KV cache of 8,192 tokens in bf16 (1.1 GB) and all else take 7.9 GB "
    "of cuda:0, with CUDA itself; 8 sequences at once, in plain torch."
)
# Sentences as they come, and as a reader of Chinese is to read them.
SPOKEN = {
    "There is no text to translate; send at least one word.": "没有可翻译的文本，请至少输入一个词。",
    "The answer for segment 3 reached its limit, so its end may be missing.": (
        "第 3 段的译文达到了长度上限，结尾可能不完整。"
    ),
    "In segment 2, “The file is empty” should have become “English” 2×, and did 1×.": (
        "在第 2 段中，“The file is empty”应有 2 处译为“English”，实际只有 1 处。"
    ),
    "The text may be English (60%) or French (30%); it was taken for English. Choose its language if it is another.": (
        "文本可能是英语（60%）或法语（30%），已按英语处理。如果是其他语言，请选择它的语言。"
    ),
    "The file has 3 languages, English (en), French (fr) and German (de); say which two are meant.": (
        "文件中有 3 种语言：英语（en）、法语（fr）和德语（de），请说明是哪两种。"
    ),
    "The translation of segment 1 seems to be in English, not in Traditional Chinese; read it again.": (
        "第 1 段的译文似乎是英语，而不是繁体中文，请核对。"
    ),
    "text[3]: Source and target are both French (fr); choose two different languages.": (
        "第 3 个文本（从 0 数起）：源语言和目标语言都是法语（fr），请选择两种不同的语言。"
    ),
    "Segment 4 could not be translated (The model was shut down while translating.); try again.": (
        "第 4 段未能翻译（模型在翻译时被关闭），请重试。"
    ),
    "The file has no row with a term that can be used. Row 2: “or” stands in row 1 already; it counts once.": (
        "文件中没有一行有可用的术语。第 2 行：“or”在第 1 行已经出现，只算一次。"
    ),
    "target_lang is missing; it must be the code of a language, such as en.": (
        "缺少 target_lang；它必须是语言代码，例如 en。"
    ),
    "This is a PNG image named .docx; send the document itself.": "这是扩展名为 .docx 的 PNG 图片，请发送文档本身。",
    (
        "L4 (cuda:0) has 21.9 of 23.6 GB free, 20.0 of them for the model: weights in bf16 take 4.3 GB, a KV cache of "
        "1,024 tokens in fp8 0.1 GB, all together, with CUDA itself, 5.0 GB; 2 sequences at once. The KV cache is in "
        "FP8: in 16 bits there is room for none."
    ): (
        " L4（cuda:0）共 23.6 GB，空闲 21.9 GB，其中 20.0 GB 可供模型使用：bf16 权重占 4.3 GB，可存 1,024 个词元的 "
        "fp8 KV 缓存占 0.1 GB，连同 CUDA 本身共 5.0 GB；同时处理 2 个序列。KV 缓存采用 FP8：用 16 位时空间不足。"
    ),
    FETCHED: (
        "模型在 cuda:0 上至少需要 15.3 GB（其中 bf16 权重 15.0 GB），而 L4（cuda:0）共 8.6 GB，空闲 7.6 G"
        "B，其中 7.2 GB 可供模型使用，因此 32 层中只保留 cuda:0 上的 8 层（3.5 GB），每一步另取内存中的 8"
        " 层（3.5 GB）和磁盘上的 16 层（7.0 GB），慢得多；更好的办法是将 --max-vram-gb 提高到 16.4、使用"
        "较小的模型或用 `python -m engine.tools.quantize` 生成 INT4 版本。bf16 权重、可存 8,192 个词元的 "
        "bf16 KV 缓存（1.1 GB）及其余部分连同 CUDA 本身占 cuda:0 的 7.9 GB；用普通 torch 同时处理 8 个序"
        "列。"
    ),
    "Apache-2.0, by Tencent": "Apache-2.0，由腾讯提供",
    "'a.txt' was not translated: The document could not be stored (No space left on device); see to the data folder of "
    "the server.": ("'a.txt' 未能翻译：文档未能保存（No space left on device），请检查服务器的数据文件夹。"),
    "A sentence of another version; it stays.": "A sentence of another version; it stays.",
    "constructor, English": "constructor, English",
    "": "",
}


def test_a_reader_of_chinese_reads_it_in_chinese() -> None:
    names = {language.english: language.chinese for language in LANGUAGES.values()}
    module = json.dumps((STATIC / "sentences.js").read_text(encoding="utf-8"))
    with a_browser() as chromium, chromium.new_page() as page:
        read = page.evaluate(
            f"""async ([sentences, table, names]) => {{
                const address = URL.createObjectURL(new Blob([{module}], {{ type: "text/javascript" }}));
                const {{ translated }} = await import(address);
                return sentences.map((sentence) => translated(sentence, table, names));
            }}""",
            [[*SPOKEN, *map(example, said())], TABLE, names],
        )
    assert dict(zip(SPOKEN, read, strict=False)) == SPOKEN
    assert read[len(SPOKEN) :] == [in_chinese(example(sentence)) for sentence in said()]


def in_chinese(sentence: str) -> str:
    """What static/sentences.js does, but for names, lists and quotation marks."""
    if not (fits := fitting(sentence)):
        return sentence
    template, values = fits[0]

    def value(place: re.Match[str]) -> str:
        told = values[int(place[2])]
        if place[1]:
            return place[1] + told
        return re.sub("。$", "", in_chinese(told)) if place[3] else in_chinese(told)

    return re.sub(r"(“?)\{(\d)\}(?=(.?))", value, TABLE[template], flags=re.DOTALL)
