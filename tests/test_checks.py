"""What is a translation and what is not. A check that cries wolf is worse than none, so most cases are fine ones."""

import argparse
from pathlib import Path

import pytest

from engine.checks import LoopWatch, faults
from engine.tools import evaluate_checks
from tests.timing import cpu_at_most

FINE = [
    ("en", "zh", "He told me he was going to America.", "他告诉了我他要去美国。"),
    ("zh", "en", "我不知道。他也不知道。", "I don't know, and neither does he."),  # two sentences become one
    ("en", "de", "Getting started", "Erste Schritte"),  # headings have no full stop
    ("en", "de", "OK", "OK"),
    ("en", "fr", "OK", "D'accord"),
    ("en", "ja", "Cancel", "キャンセル"),
    ("en", "zh", "Settings", "设置"),
    ("en", "ru", "- Buy milk", "- Купить молоко"),
    ("en", "es", "1. Open the file", "1. Abre el archivo"),
    ("en", "fr", "Tokyo 2020", "Tokyo 2020"),
    ("en", "de", "Bill Gates", "Bill Gates"),
    ("en", "it", "Monty Python and the Holy Grail", "Monty Python e il Sacro Graal"),
    ("en", "fr", "kubectl get pods -n kube-system", "kubectl get pods -n kube-system"),
    ("en", "zh", "`docker run --rm -it ubuntu:22.04`", "`docker run --rm -it ubuntu:22.04`"),
    ("en", "ko", "https://example.org/a/b?c=1", "https://example.org/a/b?c=1"),
    ("en", "ja", "support@example.org", "support@example.org"),
    ("en", "zh", "3.14159", "3.14159"),
    (
        "en",
        "zh",
        "The `getElementById()` method of the `Document` interface.",
        "`Document` 接口的 `getElementById()` 方法。",
    ),
    ("en", "de", "Kubernetes API server", "Kubernetes-API-Server"),
    ("en", "zh", "Ha ha ha ha ha ha!", "哈哈哈哈哈哈！"),
    ("en", "zh", "Hahahaha!", "哈哈哈哈！"),
    ("en", "de", "No, no, no, no, no!", "Nein, nein, nein, nein, nein!"),
    (
        "en",
        "de",
        "Row, row, row your boat, row, row, row your boat",
        "Ruder, ruder, ruder dein Boot, ruder, ruder, ruder dein Boot",
    ),
    ("en", "fr", "0 0 0 0 0 0 0 0", "0 0 0 0 0 0 0 0"),
    ("en", "fr", "Name ------------------------------", "Nom ------------------------------"),
    ("en", "zh", "item 1, item 2, item 3, item 4, item 5, item 6", "第1项、第2项、第3项、第4项、第5项、第6项"),
    ("zh", "en", "一兆元", "1,000,000,000,000 yuan"),
    ("en", "de", "It costs 1,234.50 euros.", "Es kostet 1.234,50 Euro."),
    ("en", "fr", "There were 12,500 people.", "Il y avait 12 500 personnes."),
    ("en", "zh", "The city has 1.5 million inhabitants.", "这座城市有150万居民。"),
    ("en", "zh", "It was sold for $2,300,000,000.", "它以23亿美元售出。"),
    ("en", "ko", "About 153,000 people came.", "약 15만 3천 명이 왔습니다."),
    ("en", "hi", "The project costs 25,000,000 rupees.", "इस परियोजना की लागत 2,50,00,000 रुपये है।"),
    ("hi", "en", "इसकी कीमत ₹2.5 लाख है।", "It costs ₹250,000."),
    ("en", "fa", "He was born in 1987.", "او در سال ۱۹۸۷ به دنیا آمد."),
    ("en", "ar", "The hotel has 245 rooms.", "يحتوي الفندق على ٢٤٥ غرفة."),
    ("en", "ja", "The price is 1980 yen.", "価格は１９８０円です。"),
    ("en", "zh", "He was born in 1994.", "他出生于一九九四年。"),
    ("en", "th", "It opened in 1998.", "เปิดทำการในปี 2541"),
    ("en", "zh", "This music was popular in the 1990s.", "这种音乐在90年代很流行。"),
    ("fr", "en", "C'était un tube des années 80.", "It was a hit of the 1980s."),
    ("en", "de", "The train leaves at 7:30 pm.", "Der Zug fährt um 19:30 Uhr ab."),
    ("en", "fr", "On September 11, 2001, everything changed.", "Le 11 septembre 2001, tout a changé."),
    ("en", "de", "He is twelve years old.", "Er ist 12 Jahre alt."),
    ("en", "fr", "I have 3 brothers.", "J'ai trois frères."),
    ("en", "zh", "About 50% of them agreed.", "大约一半的人同意。"),
    ("zh", "en", "注：本页内容仅供参考。", "Note: the contents of this page are for reference only."),
    ("en", "zh", "Note: this page is out of date.", "注意：本页已过时。"),
    ("zh", "en", "翻译结果如下：", "The translation is as follows:"),
    ("en", "de", "Here is the translation you asked for:", "Hier ist die Übersetzung, um die Sie gebeten haben:"),
    ("en", "zh", "Here is the book (in French).", "这是那本书（法语版）。"),
    ("en", "fr", "Write `<target>` before the text.", "Écrivez `<target>` avant le texte."),
    ("en", "th", "I would like a cup of coffee, please.", "ฉันขอกาแฟหนึ่งแก้วค่ะ"),
    ("en", "ja", "The Ministry of Education", "文部科学省"),
    ("ja", "zh", "東京都", "东京都"),
    ("zh", "zh-Hant", "你好，我叫李明。", "你好，我叫李明。"),
    ("id", "ms", "Saya tidak tahu.", "Saya tidak tahu."),
    ("en", "vi", "Where is the nearest hospital?", "Bệnh viện gần nhất ở đâu?"),
    ("en", "he", "Where is the nearest hospital?", "איפה בית החולים הקרוב ביותר?"),
    ("en", "tr", "Where is the nearest hospital?", "En yakın hastane nerede?"),
    ("en", "ta", "Where is the nearest hospital?", "அருகிலுள்ள மருத்துவமனை எங்கே உள்ளது?"),
    ("en", "my", "Where is the nearest hospital?", "အနီးဆုံးဆေးရုံ ဘယ်မှာလဲ။"),
    ("en", "km", "Where is the nearest hospital?", "តើមន្ទីរពេទ្យដែលនៅជិតបំផុតនៅឯណា?"),
    ("en", "uk", "Where is the nearest hospital?", "Де найближча лікарня?"),
    ("pt", "es", "Onde fica o hospital mais próximo?", "¿Dónde está el hospital más cercano?"),
    ("de", "ko", "Wo ist das nächste Krankenhaus?", "가장 가까운 병원이 어디예요?"),
    ("en", "de", "“Stop!” he shouted.", "„Halt!“, rief er."),
    ("en", "zh", "She said, “I know.”", "她说：“我知道。”"),
    ("en", "zh", "Name:", "名称"),
    ("en", "zh", "Loading...", "加载中"),
    ("en", "zh", "Acme Trading Inc.", "艾克美贸易公司"),
    ("en", "th", "He has lived here since 1998, with his family.", "เขาอาศัยอยู่ที่นี่กับครอบครัวตั้งแต่ปี 1998"),
    ("en", "fr", "Roses are red,", "Les roses sont rouges,"),
    ("en", "fr", "", ""),
]

LONG = (
    "The committee met on Tuesday to discuss the new rules, which had been proposed by three of its members, and "
    "decided to put off the vote until the spring."
)
LONG_DE = (
    "Der Ausschuss kam am Dienstag zusammen, um über die neuen Regeln zu beraten, die drei seiner Mitglieder "
    "vorgeschlagen hatten, und beschloss, die Abstimmung auf das Frühjahr zu verschieben."
)
LONG_ZH = "委员会于星期二开会讨论由三名委员提出的新规定，并决定将投票推迟到春天。"

AT_FAULT = [
    ("incomplete", "en", "de", LONG, LONG_DE[:80]),
    ("incomplete", "en", "de", LONG, LONG_DE[:103]),  # up to a comma
    ("incomplete", "en", "zh", LONG, LONG_ZH[:14]),
    ("incomplete", "en", "zh", LONG, LONG_ZH[:10] + "。"),  # ends well, and far too early
    ("incomplete", "zh", "en", LONG_ZH, "The committee met on Tuesday to discuss"),
    ("incomplete", "en", "th", LONG, "คณะกรรมการประชุมกันเมื่อวันอังคาร"),
    ("incomplete", "en", "fr", "Do you know where the station is?", "Savez-vous où"),
    ("too_long", "en", "de", "Where is the station?", LONG_DE),
    ("looping", "en", "de", LONG, LONG_DE[:60] + " und beschloss" * 8),
    ("looping", "en", "zh", LONG, "委员会" * 9),
    ("looping", "en", "zh", LONG, "的" * 30),
    ("looping", "en", "ja", LONG, "委員会は火曜日に集まりました。" * 5),
    ("looping", "en", "fr", "Ha ha ha!", "Ha ha ha" * 30),  # a little more than its source is fine, this is not
    (
        "wrong_language",
        "en",
        "de",
        LONG,
        "Le comité s'est réuni mardi pour discuter des nouvelles règles proposées par trois membres.",
    ),
    ("wrong_language", "en", "zh", "He would not listen.", "Er wollte nicht zuhören."),
    ("wrong_language", "en", "ja", LONG, LONG_ZH),
    ("wrong_language", "zh", "zh-Hant", LONG_ZH, LONG_ZH),
    ("wrong_language", "en", "ko", "Where is the station?", "駅はどこですか。"),
    (
        "wrong_language",
        "en",
        "pt",
        LONG,
        "El comité se reunió el martes para discutir las nuevas reglas, que habían propuesto tres de ellos.",
    ),
    ("wrong_language", "en", "ru", "Where is the nearest hospital?", "Onde fica o hospital mais próximo?"),
    ("echo", "en", "de", LONG, LONG),
    ("echo", "en", "fr", "Tom left.", "Tom left."),
    ("echo", "en", "zh", "He would not listen to my advice.", "he would not listen to my advice"),
    ("echo", "zh", "en", "他不肯听我的劝告。", "他不肯听我的劝告。"),
    ("echo", "ru", "en", "Я не знаю, что делать.", "Я не знаю, что делать."),
    ("numbers", "en", "de", "The hotel has 245 rooms.", "Das Hotel hat 254 Zimmer."),
    ("numbers", "en", "ja", "The train leaves at 16:45 from platform 12.", "列車は12番線から12時45分に出発します。"),
    ("numbers", "en", "zh", "He was born in 1987.", "他出生于1978年。"),
    ("numbers", "en", "fr", "Call 555 019 now.", "Appelez maintenant."),
    ("numbers", "zh", "en", "人口为1,234,567人。", "The population is 1,234,000."),
    ("notes", "en", "zh", "He told me so.", "他是这么告诉我的。（注：此处为直译）"),
    ("notes", "zh", "en", "他告诉我的。", "He told me. (Note: the subject is omitted in Chinese.)"),
    ("notes", "en", "de", "He told me so.", "Er hat es mir gesagt. [Anmerkung: wörtlich]"),
    ("notes", "en", "fr", "Good morning.", "Here is the translation: Bonjour."),
    ("notes", "zh", "en", "早上好。", "Translation: Good morning."),
    ("notes", "en", "zh", "Good morning.", "翻译结果：早上好。"),
    ("notes", "en", "zh", "Good morning.", "以下是翻译：\n早上好。"),
    ("notes", "en", "zh", "Good morning.", "<target>早上好。</target>"),
    ("notes", "en", "zh", "Good morning.", "将以下文本翻译为中文：早上好。"),
]


PAIRS = {  # of lines that are parallel
    "de": ("Der Hund schläft im Garten hinter dem Haus.", "Wir haben gestern ein neues Fahrrad gekauft."),
    "fr": ("Le chien dort dans le jardin derrière la maison.", "Nous avons acheté un nouveau vélo hier."),
    "zh": ("狗在房子后面的花园里睡觉。", "我们昨天买了一辆新的自行车。"),
}
ENGLISH = ("The dog is sleeping in the garden behind the house.", "We bought a new bicycle yesterday.")


def codes(text: str, answer: str, source: str, target: str) -> list[str]:
    return [fault.code for fault in faults(text, answer, source, target)]


@pytest.mark.parametrize(("source", "target", "text", "answer"), FINE)
def test_a_good_translation_is_not_doubted(source: str, target: str, text: str, answer: str) -> None:
    assert codes(text, answer, source, target) == []


@pytest.mark.parametrize(("code", "source", "target", "text", "answer"), AT_FAULT)
def test_a_bad_translation_is_told_apart(code: str, source: str, target: str, text: str, answer: str) -> None:
    assert code in codes(text, answer, source, target)


def test_the_worst_comes_first_and_less_is_better() -> None:
    worse = faults(LONG, LONG_DE[:60] + " und beschloss" * 8, "en", "de")
    better = faults(LONG, LONG_DE[:130], "en", "de")
    assert worse[0].code == "looping"
    assert sum(fault.weight for fault in worse) > sum(fault.weight for fault in better) > 0


def test_the_shorter_stump_is_the_worse_one() -> None:
    weights = [faults(LONG, LONG_DE[:size], "en", "de")[0].weight for size in (40, 80, 120)]
    assert weights == sorted(weights, reverse=True)


@pytest.mark.parametrize(("code", "source", "target", "text", "answer"), AT_FAULT)
def test_a_fault_is_a_sentence_with_a_place_for_the_segment(
    code: str, source: str, target: str, text: str, answer: str
) -> None:
    assert all(
        "{where}" in fault.sentence and fault.sentence.endswith(".") for fault in faults(text, answer, source, target)
    )


def weight(answer: str, source: str = "en", target: str = "de", text: str = LONG) -> float:
    return sum(fault.weight for fault in faults(text, answer, source, target))


def test_no_translation_at_all_is_worse_than_a_stump_and_a_loop_between_them() -> None:
    stump, loop = weight(LONG_DE[:40]), weight(LONG_DE + " und beschloss" * 8)
    assert 2 < stump < weight(LONG)  # where a missed term is 1
    assert 4 < loop < weight(LONG)


def test_each_number_that_is_lost_counts() -> None:
    text = "They sold 1,245 cars, 377 vans and 86 trucks."
    one = weight("Sie verkauften 1.245 Autos, 377 Transporter und 68 Lastwagen.", text=text)
    assert 0 < one < weight("Sie verkauften 1.254 Autos, 373 Transporter und 68 Lastwagen.", text=text)


BOOK, BOOK_DE = f"{LONG} " * 400, f"{LONG_DE} " * 400


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (BOOK_DE.replace("Dienstag", "1987", 3), None),
        (BOOK_DE[: len(BOOK_DE) // 2], "incomplete"),
        (BOOK_DE + "und beschloss " * 300, "looping"),
        (BOOK, "echo"),
        (BOOK_DE * 4, "too_long"),
    ],
)
def test_of_a_book_beginning_end_and_length_are_looked_at(answer: str, code: str | None) -> None:
    assert codes(BOOK, answer, "en", "de")[:1] == ([code] if code else [])


LOOPS = [
    "a" * 300,
    "的" * 40,
    "no " * 40,
    "blah" * 60,
    "我不知道。" * 20,
    "This is a sentence that goes on and on, with many words in it. " * 6,
    "ที่นี่มีอาหารอร่อยมากมายให้เลือกสรร" * 6,
    "यह एक लंबा वाक्य है जो बार बार आता है। " * 6,
    "1. Open it. 2. Open it. 3. Open it. 4. Open it. 5. Open it. 6. Open it. ",
    "." * 100,
    "- " * 100,
]


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop[:12])
def test_a_loop_is_seen_as_it_streams_before_it_has_ended(loop: str) -> None:
    watch = LoopWatch("He opened the door and went out into the garden.")
    assert not watch.feed("Er öffnete die Tür: ")
    assert any(watch.feed(character) for character in loop)


@pytest.mark.parametrize(("source", "target", "text", "answer"), FINE)
def test_what_is_no_loop_streams_to_its_end(source: str, target: str, text: str, answer: str) -> None:
    watch = LoopWatch(text)
    assert not any(watch.feed(character) for character in answer)
    assert not watch.end()


@pytest.mark.parametrize("repeated", ["ha ", "-", "0 ", "la la lee ", "哈", "| "])
def test_what_the_source_repeats_may_be_repeated(repeated: str) -> None:
    watch = LoopWatch(repeated * 300)
    assert not any(watch.feed(repeated) for _ in range(400))


def test_an_answer_in_pieces_loops_when_the_whole_does() -> None:
    text = "Er kam " + "und ging " * 5
    for size in (1, 2, 3, 7, 100):
        watch = LoopWatch("He came and went.")
        seen = [watch.feed(text[start : start + size]) for start in range(0, len(text), size)]
        assert seen[-1] or watch.end()
        assert not seen[0] or size == 100


@pytest.mark.parametrize("unit", ["的", "a", "1", "1,", "(", "a`", "(Note", "x.y", " \n", "10 0", "Note: ", "ab ", "ก"])
def test_a_hundred_kilobytes_of_anything_take_seconds(unit: str) -> None:
    text = unit * (100_000 // len(unit.encode()))
    with cpu_at_most(20):
        faults(text, text, "en", "zh")


@pytest.mark.parametrize("join", [1, 2])
def test_evaluating_takes_references_and_doubts_every_kind_of_damage(tmp_path: Path, join: int) -> None:
    for lang, lines in PAIRS.items():
        rows = "".join(f"doc\t{english}\t{line}\n" for english, line in zip(ENGLISH, lines, strict=True))
        (tmp_path / f"tiny.en-{lang}.tsv").write_text(f"doc\ten\t{lang}\n{rows}", encoding="utf-8")
    parser = argparse.ArgumentParser()
    evaluate_checks.add_arguments(parser)
    scores = evaluate_checks.run(parser.parse_args(["--test", str(tmp_path), "--sets", "tiny", "--join", str(join)]))
    of = scores["scores"]["tiny"]["all"]
    assert of["references"] == 12 // join
    assert of["false_alarms"] == 0
    recall = dict(of["recall_by_kind"])
    unfinished = recall.pop("unfinished", None)  # the one kind that ends as it should
    assert set(recall.values()) == {1}
    assert (unfinished is not None) == (join > 1)
    assert "tiny en-de" in evaluate_checks.show(scores)
