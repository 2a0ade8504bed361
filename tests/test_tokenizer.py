"""Both of HY-MT's chat layouts, what a user may type without steering the model, and text as it comes out."""

import json
import random

import pytest
from tokenizers import Tokenizer

from engine.errors import UnsupportedModel
from engine.inference.tokenizer import ChatTokenizer
from engine.tools.tokenizer import MARKS
from tests.checkpoints import SEVEN_B, SMALL, write_json, write_tokenizer

LAYOUTS = {"7b": SEVEN_B, "1.8b": SMALL}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in LAYOUTS}
    for name, folder in folders.items():
        write_tokenizer(folder, LAYOUTS[name])
    return folders


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture
def folder(folders, layout):
    return folders[layout]


@pytest.fixture
def chat(folder):
    return ChatTokenizer(folder)


@pytest.fixture
def plain(folder):
    """The same tokenizer as a file, without any of our code."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def streamed(chat, ids):
    decoder = chat.decoder()
    return [*(decoder.feed(id) for id in ids), decoder.rest()]


def said(chat, text):
    """Text by way of ids."""
    return "".join(streamed(chat, words(chat, text)))


def words(chat, text):
    """The ids of a user's words, without the layout around them."""
    return chat.prompt(text)[len(chat._before) : -len(chat._after)]


@pytest.mark.parametrize(
    ("name", "before", "after"), [("7b", [127958], [127962]), ("1.8b", [120000, 120006], [120007])]
)
def test_a_turn_has_the_documented_ids_around_it(folders, name, before, after):
    text = "I went to the library. 我昨天去了图书馆。"
    plain = Tokenizer.from_file(str(folders[name] / "tokenizer.json"))
    assert ChatTokenizer(folders[name]).prompt(text) == [*before, *plain.encode(text).ids, *after]


def test_the_7b_has_three_ends_and_the_small_one_its_own(folders):
    assert ChatTokenizer(folders["7b"]).stop_ids == {127957, 127960, 127967}
    assert ChatTokenizer(folders["1.8b"]).stop_ids == {120020}


@pytest.mark.parametrize("declared", [300, [300, 301]])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_ends_that_the_folder_declares_count_too(tmp_path, declared, file):
    write_tokenizer(tmp_path, SMALL)
    write_json(tmp_path / file, {"architectures": ["HunYuanDenseV1ForCausalLM"], "eos_token_id": declared})
    assert ChatTokenizer(tmp_path).stop_ids == {120020, 300} | ({301} if isinstance(declared, list) else set())


def test_a_template_in_its_own_file_is_read(tmp_path):
    write_tokenizer(tmp_path, SMALL)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "chat_template.jinja").write_text(config.pop("chat_template"), encoding="utf-8")
    write_json(tmp_path / "tokenizer_config.json", config)
    assert ChatTokenizer(tmp_path).prompt("")[-1] == 120007


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ 'Hello' }}", "leaves out the user's words"),
        ("{% if %}", "cannot be read .TemplateSyntaxError"),
        ("{{ messages.no.such }}", "cannot be read .UndefinedError"),
        ("{{ raise_exception('No turn of a user') }}", "No turn of a user"),
        (None, "cannot be read .ValueError: .*template"),
    ],
)
def test_a_template_of_no_use_is_said_so(tmp_path, template, words):
    write_tokenizer(tmp_path, SEVEN_B)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(tmp_path / "tokenizer_config.json", config | {"chat_template": template})
    with pytest.raises(UnsupportedModel, match=words):
        ChatTokenizer(tmp_path)


def test_a_beginning_that_the_tokenizer_would_add_by_itself_is_not_doubled(tmp_path):
    write_tokenizer(tmp_path, SEVEN_B)
    written = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    start = {"SpecialToken": {"id": "<|startoftext|>", "type_id": 0}}
    written["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|startoftext|>": {"id": "<|startoftext|>", "ids": [127958], "tokens": ["<|startoftext|>"]}
        },
    }
    write_json(tmp_path / "tokenizer.json", written)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("Hi").ids[0] == 127958
    chat = ChatTokenizer(tmp_path)
    assert chat.prompt("Hi").count(127958) == 1
    assert chat.count("Hi") == len(chat.prompt("Hi")) - 2


def test_special_tokens_that_a_user_types_stay_text(chat, layout):
    special = LAYOUTS[layout].specials
    text = " x ".join(special) + "".join(special) + "<|eos|><｜hy_User｜>"
    ids = words(chat, text)
    assert not set(ids) & set(special.values())
    assert "".join(streamed(chat, ids)) == text


def test_control_tokens_that_are_not_special_stay_text_too(folders):
    chat = ChatTokenizer(folders["1.8b"])
    plain = Tokenizer.from_file(str(folders["1.8b"] / "tokenizer.json"))
    control = {plain.token_to_id(name) for name in SMALL.unspecial}
    text = "<think>see</think> https://example.org/think /no_think"
    assert control & set(plain.encode(text).ids)
    assert not control & set(words(chat, text))
    assert said(chat, text) == text
    assert "".join(streamed(chat, [plain.token_to_id("<think>")])) == "<think>"


def test_marks_are_single_tokens_where_the_model_has_them(folders):
    chat = ChatTokenizer(folders["7b"])
    assert [chat.count(mark) for mark in MARKS] == [1] * len(MARKS)
    assert said(chat, "The <s1>quick</s1> fox") == "The <s1>quick</s1> fox"
    assert ChatTokenizer(folders["1.8b"]).count("<s1>") > 1


def test_counting_is_of_the_text_alone(chat):
    assert chat.count("") == 0
    for text in ("Hello there", "我昨天去了图书馆。", "<|eos|>"):
        assert chat.count(text) == len(words(chat, text)) == len(chat.prompt(text)) - len(chat.prompt(""))


TEXTS = [
    "我昨天去了图书馆，借了三本书。",
    "彼は東京へ行った。그는 어제 서울에 갔다.",
    "👍🏽 👩‍👩‍👧‍👦 🇫🇷🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "نَصٌّ عَرَبِيٌّ हिन्दी में क्षत्रिय ภาษาไทย བོད་སྐད",
    "cafe\u0301 Z\u0351\u036b\u0343a\u0328",
    "  two  spaces\t\ttabs\r\n\n\nlines \u00a0\u3000 ",
    "« Ah ! » dit-il : c’est vrai ? Oui ; non . text ![img](a.b) , .css do n't",
    "\ufeff\u200b\u2063yiwen\u2063\0 𠮷野家 𝔘𝔫𝔦",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_joined_is_all_of_it_decoded_at_once(chat, plain, text):
    ids = words(chat, text)
    pieces = streamed(chat, ids)
    assert "".join(pieces) == plain.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_is_cleaned_away_or_made_of_another_form(folders, text):
    assert said(ChatTokenizer(folders["1.8b"]), text) == text


def test_characters_come_whole_though_their_bytes_come_one_by_one(chat, plain):
    byte_tokens = [id for each in "👍" for id in plain.encode(each).ids]
    assert len(byte_tokens) == 4
    assert streamed(chat, byte_tokens) == ["", "", "", "👍", ""]


def test_half_a_character_at_the_end_is_left_out(chat, plain):
    ids = [*plain.encode("a").ids, *plain.encode("👍").ids[:2]]
    assert streamed(chat, ids) == ["a", "", "", ""]


def test_any_ids_at_all_are_decoded_as_they_are_at_once(chat, plain):
    """Random ids break characters in every way; the only thing a stream may lack is half a one at the end."""
    dice, known = random.Random(0), sorted(plain.get_vocab().values())
    for _ in range(600):
        ids = dice.choices(known, k=dice.randint(1, 30))
        assert "".join(streamed(chat, ids)) == plain.decode(ids).removesuffix("\ufffd")


def test_special_tokens_that_the_model_says_are_not_shown(chat, plain, layout):
    ids = plain.encode("a").ids
    assert streamed(chat, [*ids, *LAYOUTS[layout].specials.values(), *ids]) == [
        "a",
        *[""] * len(LAYOUTS[layout].specials),
        "a",
        "",
    ]


@pytest.mark.parametrize("declared", [{"a": 1}, "</s>", True, [1, "2"]])
@pytest.mark.parametrize("name", ["eos_token_id", "bos_token_id", "pad_token_id"])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_a_token_that_is_no_number_is_said_so(tmp_path, file, name, declared):
    write_tokenizer(tmp_path, SMALL)
    write_json(tmp_path / file, {"architectures": ["HunYuanDenseV1ForCausalLM"], name: declared})
    with pytest.raises(UnsupportedModel, match=rf"{file}' says {name} .*; it must be a whole number or a list of such"):
        ChatTokenizer(tmp_path)
