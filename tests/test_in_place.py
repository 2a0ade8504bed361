import pytest

from engine.markup import in_place
from engine.types import Term

TERMS = (Term("server", "Dienstrechner"), Term("cache", "Zwischenspeicher"))


@pytest.mark.parametrize(
    ("text", "tags", "expected"),
    [
        ("The server runs.", {}, "The <s1>Dienstrechner</s1> runs."),
        (
            "Servers and their cache",
            {},
            "<s1>Dienstrechner</s1> and their <s2>Zwischenspeicher</s2>",
        ),
        ("A <s1>fast</s1> cache", {1: ("<b>", "</b>")}, "A <s1>fast</s1> <s2>Zwischenspeicher</s2>"),
        ("The <s1>cache</s1>.", {1: ("<b>", "</b>")}, "The <s1>Zwischenspeicher</s1>."),
        ("The <s1>big cache</s1>.", {1: ("<b>", "</b>")}, "The <s1>big <s2>Zwischenspeicher</s2></s1>."),
        ("No term.", {}, "No term."),
    ],
)
def test_targets_stand_in_the_source_between_marks(text, tags, expected):
    assert in_place.put(text, tags, TERMS, "en")[0] == expected


def test_a_term_that_fills_a_pair_of_the_text_is_settled_in_its_marks():
    tags = {1: ("<b>", "</b>")}
    text, targets = in_place.put("Pay the <s1>server</s1>.", tags, TERMS, "en")
    assert (text, targets) == ("Pay the <s1>Dienstrechner</s1>.", {1: "Dienstrechner"})
    assert in_place.settled("Zahle <s1>Ausruf</s1>.", tags, targets, "de") == "Zahle <s1>Dienstrechner</s1>."


def test_a_word_that_spells_a_mark_is_no_term_in_one():
    tags = {1: ("<b>", "</b>")}
    assert in_place.put("<s1>go</s1> on", tags, [Term("s1", "x")], "en") == ("<s1>go</s1> on", {})


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Der <s1>Dienstrechner</s1> läuft.", "Der Dienstrechner läuft."),
        ("Des <s1>Dienstrechners</s1> Lauf.", "Des Dienstrechners Lauf."),  # as the model inflected it
        ("Der <s1>Server</s1> läuft.", "Der Dienstrechner läuft."),
        ("Der <s1></s1> läuft.", "Der Dienstrechner läuft."),
    ],
)
def test_between_its_marks_the_term_stands(answer, expected):
    assert in_place.settled(answer, {}, {1: "Dienstrechner"}, "de") == expected


def test_a_term_whose_marks_are_lost_does_not_cost_the_others():
    text, targets = in_place.put("The server and its cache", {}, TERMS, "en")
    answer = "Der <s1>Dienstrechner</s1> und sein <s2>Zwischenspeicher"
    left = in_place.that_came_back(text, {}, targets, answer)
    assert left == ("The <s1>Dienstrechner</s1> and its Zwischenspeicher", {1: "Dienstrechner"})
