import pytest

from engine.detect import detect
from engine.languages import LANGUAGES

TEN = ("en", "zh", "ja", "fr", "es", "de", "ko", "pt", "ru", "it")
SENTENCES = {
    "en": "The committee has not yet decided when the bridge will be opened.",
    "zh": "委员会还没有决定什么时候开放这座桥。",
    "ja": "委員会はいつ橋を開通させるかまだ決めていない。",
    "fr": "Le comité n'a pas encore décidé quand le pont sera ouvert.",
    "es": "El comité aún no ha decidido cuándo se abrirá el puente.",
    "de": "Der Ausschuss hat noch nicht entschieden, wann die Brücke geöffnet wird.",
    "ko": "위원회는 다리를 언제 열지 아직 결정하지 않았다.",
    "pt": "O comité ainda não decidiu quando a ponte será aberta.",
    "ru": "Комитет ещё не решил, когда откроют мост.",
    "it": "Il comitato non ha ancora deciso quando il ponte sarà aperto.",
    "bo": "བོད་ཡིག་ནི་བོད་མིའི་ཡི་གེ་ཡིན།",
    "th": "คณะกรรมการยังไม่ได้ตัดสินใจ",
    "ar": "لم تقرر اللجنة بعد متى سيتم افتتاح الجسر.",
}


@pytest.mark.parametrize("lang", SENTENCES)
def test_a_sentence_tells_its_language(lang):
    assert detect(SENTENCES[lang], LANGUAGES)[0].lang == lang


def test_the_best_two_come_with_scores():
    first, second = detect(SENTENCES["es"], TEN)
    assert 1 >= first.score > second.score >= 0
    assert first.lang != second.lang


def test_only_the_languages_offered_are_guessed():
    assert {guess.lang for guess in detect(SENTENCES["ko"], ("en", "fr"))} == {"en", "fr"}


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("使用Python编程语言写程序", "zh"),
        ("Pythonでプログラムを書く", "ja"),
        ("東京タワー", "ja"),
        ("你好", "zh"),
        ("네", "ko"),
    ],
)
def test_script_decides_in_short_and_mixed_text(text, lang):
    assert detect(text, TEN)[0].lang == lang


def test_a_foreign_word_does_not_decide():
    assert detect("The greeting 你好 is the one that everybody learns first.", TEN)[0].lang == "en"


def test_chinese_has_the_code_that_is_offered():
    assert detect("委員會還沒有決定", ("en", "zh-Hant"))[0].lang == "zh-Hant"


def test_a_text_without_letters_has_no_language():
    assert detect("123 – 456 👍", TEN) == ()


def test_only_the_head_of_a_text_is_read():
    assert detect(SENTENCES["de"] * 50 + SENTENCES["ru"] * 50_000, TEN)[0].lang == "de"
