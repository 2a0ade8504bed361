import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.glossary import _tokens, check, find, index, terms_in
from engine.types import Term, TermResult
from tests.timing import cpu_at_most


def sources(glossary, text, lang="en"):
    return [term.source for term in terms_in(index(tuple(Term(source, "X") for source in glossary)), text, lang)]


def marked(term, text, lang="en"):
    return [text[found.start : found.end] for found in find(index((Term(term, "X"),)), text, lang)]


@pytest.mark.parametrize(
    ("term", "text", "lang", "occurs"),
    [
        ("server", "The Server runs.", "en", True),
        ("server", "Two observers.", "en", False),
        ("server", "A server™, a server¹ and server②", "en", True),
        ("server", "server™", "en", True),
        ("server", "server²", "en", True),
        ("server", "ser\u00adver", "en", True),  # hyphenated where the line would break
        ("CO2", "CO₂", "en", True),
        ("CO", "CO₂", "en", False),
        ("caf", "Un café.", "fr", False),
        ("cafe", "Un cafe\u0301.", "fr", False),  # a mark belongs to its letter
        ("café", "Un cafe\u0301.", "fr", True),
        ("AI", "使用AI技术", "zh", True),  # a Latin word in Chinese
        ("AI", "使用AIM技术", "zh", False),
        ("AI", "使用AI2技术", "zh", False),
        ("AI", "ＡＩと人", "ja", True),  # full width
        ("サーバー", "ｻｰﾊﾞｰの", "ja", True),  # half width, with a sound mark of its own
        ("混元", "腾讯混元大模型", "zh", True),
        ("人工智能", "人工\n智能", "zh", True),
        ("ข้อมูล", "ศูนย์ข้อมูลกลาง", "th", True),
        ("서버", "서버는 좋다", "ko", True),
        ("서버", "서버는 좋다", "", True),
        ("서버", "웹서버", "ko", False),
        ("서버", "\u1109\u1165\u1107\u1165\u1102\u1173\u11ab", "ko", True),  # 서버는 letter by letter
        ("server", "server는", "ko", True),
        ("server", "serverless", "ko", False),
        ("물", "물은", "ko", True),
        ("물", "물리학", "ko", False),
        ("ev", "evler", "tr", True),
        ("ev", "ev4", "tr", False),
        ("ev", "evler", "en", False),
        ("yönetim", "veri tabanı yönetimi", "tr", True),
        ("Straße", "EINE STRASSE", "de", True),
        ("Impfstoff", "Die Impfstoffe", "de", True),
        ("İstanbul", "istanbul'da", "tr", True),
        ("istanbul", "İSTANBUL'DA", "tr", True),
        ("s", "ß", "de", False),
        ("machine learning", "machine\nlearning", "en", True),
        ("machine learning", "machine-learning", "en", True),
        ("machine learning", "machine \u00a0learning", "en", True),
        ("machine learning", "the machine\n\nlearning", "en", False),
        ("machine learning", "machine, learning", "en", False),
        ("COVID-19", "COVID 19", "en", True),
        ("server", "the server's disk, the server’s disk", "en", True),
        ("server", "two servers", "en", True),
        ("box", "two boxes", "en", True),
        ("city", "two cities", "en", True),
        ("knife", "two knives", "en", True),
        ("name server", "two name servers", "en", True),
        ("PC", "two PCs", "en", True),
        ("it", "its", "en", False),
        ("clas", "class", "en", False),
        ("servers", "a server", "en", False),
        ("Server", "Des Servers Lauf", "de", True),
        ("Messer", "Die Messe beginnt.", "de", False),
        ("Messe", "Das Messer ist scharf.", "de", False),
        ("Mieter", "Die Miete ist hoch.", "de", False),
        ("Reiter", "Das Reiten macht Freude.", "de", False),
        ("Ware", "Wo sie waren, ist es warm.", "de", False),
        ("Ware", "Alle Waren sind da.", "de", True),
        ("puerto", "La puerta está abierta.", "es", False),
        ("puerto", "Los puertos.", "es", True),
        ("porto", "La porta è aperta.", "it", False),
        ("libro", "Due libri.", "it", True),
        ("port", "La porte.", "fr", False),
        ("banco", "A banca fechou.", "pt", False),
        ("сервер", "с серверами", "ru", True),
        ("машинное обучение", "методами машинного обучения", "ru", True),
        ("сон", "соня", "ru", False),
        ("виробництво", "у виробництві", "uk", True),
        ("szczepionka", "szczepionki", "pl", True),
        ("vaccin", "les vaccins", "fr", True),
        ("élève", "l’élève", "fr", True),
        ("فيروس", "انتشار الفيروس", "ar", True),
        ("חיסון", "החיסון", "he", True),
        ("GPT-4", "GPT-45", "en", False),
        ("C++", "Use C++, please", "en", True),
        ("C-", "Use C now", "en", False),
        (".NET", "on .NET 8", "en", True),
        ("→", "a→b", "en", True),
        ("👍", "👍🏽", "en", True),
        ("❤", "❤\ufe0f", "en", True),
        (".*", "anything", "en", False),
        (".*", "the regex .*", "en", True),
        ("<b>", "a <b>bold</b> word", "en", True),
        ("\ud800", "a \ud800 b", "en", True),
        ("x" * 10_000, "x" * 9_999, "en", False),
        ("x" * 10_000, "x" * 10_000, "en", True),
        (" \n", "any \n\n thing", "en", False),
        ("\u00ad", "any\u00adthing", "en", False),
        ("\u00ad\n\n", "any\n\nthing", "en", False),
        ("", "anything", "en", False),
        ("anything", "", "en", False),
    ],
)
def test_a_term_occurs_where_a_reader_sees_it(term, text, lang, occurs):
    assert bool(sources([term], text, lang)) is occurs


@pytest.mark.parametrize(
    ("term", "text", "lang", "stretches"),
    [
        ("server", "Two servers, the Server’s", "en", ["server", "Server"]),
        ("city", "two cities", "en", ["cities"]),
        ("서버", "서버는", "ko", ["서버"]),
        ("İzmir", "ﬁn, İZMİR'DE", "tr", ["İZMİR"]),
        ("straße", "(Ⅷ) STRASSE… Straßen", "de", ["STRASSE", "Straße"]),
        ("café", "ﬁ cafe\u0301s", "fr", ["cafe\u0301"]),
        ("машинное обучение", "о машинном обучении", "ru", ["машинном обучении"]),
        ("فيروس", "والفيروس", "ar", ["فيروس"]),
        ("AI", "…ＡＩ…", "zh", ["ＡＩ"]),
        ("machine learning", "machine-\nlearning", "en", ["machine-\nlearning"]),
    ],
)
def test_a_term_is_marked_as_it_stands_in_the_text(term, text, lang, stretches):
    assert marked(term, text, lang) == stretches


@pytest.mark.parametrize(("term", "text"), [(".", "Wait…"), ("1", "½"), ("i", "ﬁ…"), ("…", "……")])
def test_no_place_is_marked_twice(term, text):
    stretches = [(found.start, found.end) for found in find(index((Term(term, "X"),)), text, "en")]
    assert stretches == sorted(set(stretches))


def test_the_longest_terms_come_first_and_each_once():
    glossary = ["memory", "shared memory", "Memory", "page"]
    assert sources(glossary, "A page of shared memory is memory.") == ["shared memory", "memory", "page"]


def test_a_term_inside_a_longer_one_is_left_out():
    assert sources(["memory", "shared memory"], "Shared memory.") == ["shared memory"]


def test_of_two_that_overlap_the_one_of_more_words_wins():
    assert sources(["ab cd", "cd ef gh"], "ab cd ef gh") == ["cd ef gh"]


def test_of_two_as_long_that_overlap_the_first_wins():
    assert sources(["ab cd", "cd efg"], "ab cd efg") == ["ab cd"]


def test_a_term_is_found_beside_another_form_of_its_word():
    assert sources(["server", "name servers"], "Servers and name servers") == ["name servers", "server"]


def test_the_first_of_two_entries_for_one_term_counts():
    assert terms_in(index((Term("AI", "IA"), Term("ai", "KI"))), "AI", "en") == (Term("AI", "IA"),)


@pytest.mark.parametrize(
    ("text", "targets"),
    [("The US", ["美国"]), ("with us", ["我们"]), ("US with us", ["美国", "我们"]), ("Us", ["我们"])],
)
def test_a_term_in_its_letter_case_goes_before_one_in_any(text, targets):
    glossary = index((Term("us", "我们"), Term("US", "美国", case=True)))
    assert [found.term.target for found in find(glossary, text, "en")] == targets


def test_a_term_in_its_letter_case_hides_no_other():
    glossary = index((Term("US dollar", "X", case=True), Term("dollar", "Y")))
    assert [found.term.source for found in find(glossary, "a us dollar, a ＵＳ  dollar", "en")] == [
        "dollar",
        "US dollar",
    ]


def test_a_segment_may_have_any_number_of_terms():
    words = [f"word{number}" for number in range(40)]
    assert len(sources(words, " ".join(words))) == 40


def test_terms_of_one_length_come_as_they_stand_in_the_text():
    assert sources(["ab", "cd", "ef"], "ef ab cd") == ["ef", "ab", "cd"]


def test_a_term_without_a_target_comes_as_it_is():
    assert terms_in(index((Term("HunYuan", ""),)), "HunYuan is here", "en") == (Term("HunYuan", ""),)


def test_a_large_glossary_is_made_ready_once_whatever_small_ones_come_between():
    terms = tuple(Term(f"word{number}", "X") for number in range(1_000))
    ready = index(terms)
    for term in terms[:20]:
        index((term,))
    assert index(terms) is ready


@given(
    st.lists(st.text("aàsßeİiıI ﬁ…中文서버는ก็\u0301\u00ad-'\n1²", max_size=5), max_size=5),
    st.text("aàsßeİiıI ﬁ…中文서버는ก็\u0301\u00ad-'\n1²", max_size=30),
    st.sampled_from(["en", "zh", "ko", "tr", "de", "ar", ""]),
)
def test_what_is_marked_begins_with_the_term(glossary, text, lang):
    end = 0
    for found in find(index(tuple(Term(source, "X") for source in glossary)), text, lang):
        assert end <= found.start < found.end <= len(text)
        end = found.end
        wanted = "".join(_tokens(found.term.source).words)
        stretch = "".join(_tokens(text[found.start : found.end]).words)
        assert stretch.startswith(wanted) or lang in ("en", "de")  # there a word may change its own ending


@given(st.lists(st.text()), st.text(), st.text())
def test_any_text_is_harmless(glossary, text, translation):
    terms = tuple(Term(source, source[::-1]) for source in [*glossary, text])
    for result in check(terms, text, translation, "en", "ru"):
        assert 0 <= result.applied <= result.count


def test_ten_thousand_terms_are_found_in_a_book_within_seconds():
    glossary = index(tuple(Term(f"word{number:05}", "X") for number in range(10_000)))
    with cpu_at_most(5):
        for number in range(4_000):
            text = f"A sentence of some twelve words with word{number:05} in the midst of it."
            assert len(terms_in(glossary, text, "en")) == 1


@pytest.mark.parametrize("lang", ["en", "ko", "ru", "zh"])
@pytest.mark.parametrize(
    ("terms", "text"),
    [
        (["a" * size for size in range(1, 400)], "a" * 200_000),
        (["a" * size for size in range(1, 400)], "a " * 50_000),
        ([" ".join("a" * size) for size in range(1, 400)], "a " * 50_000),
        (["中" * size for size in range(1, 300)], "中" * 50_000),
        (["中" * size + "国" for size in range(1, 300)], "中" * 50_000),
        (["서버"], "서버" * 100_000),
        (["a"], "a" + "\u0301\u0327" * 100_000),
        (["a"], "a-" * 100_000 + " \n" * 100_000),
    ],
)
def test_a_text_that_repeats_itself_takes_no_longer(terms, text, lang):
    glossary = index(tuple(Term(term, "X") for term in terms))
    with cpu_at_most(5):
        find(glossary, text, lang)


def test_terms_that_nest_without_end_still_leave_the_longest():
    glossary = index(tuple(Term("中" * size, "X") for size in range(1, 101)))
    assert [found.end - found.start for found in find(glossary, "中" * 1_000, "zh")] == [100] * 10


@pytest.mark.parametrize(
    ("term", "source", "translation", "count", "applied"),
    [
        (Term("server", "сервер"), "The server and the server.", "Сервер с серверами.", 2, 2),
        (Term("cat", "Katze"), "A cat, a cat, a cat.", "Eine Katze, ein Tier.", 3, 1),
        (Term("cat", "Katze"), "A cat.", "Katze, Katze.", 1, 1),
        (Term("混元", "HunYuan"), "混元和混元", "Hunyuan and HunYuan", 2, 2),
        (Term("İzmir", "Smyrna"), "İZMİR ve ß", "ß in SMYRNA", 1, 1),
        (Term("HunYuan", ""), "HunYuan", "混元", 1, 0),
        (Term("HunYuan", ""), "HunYuan", "Hunyuan", 1, 0),
        (Term("HunYuan", ""), "HunYuan, HUNYUAN", "HUNYUAN와 HunYuan은", 2, 2),
    ],
)
def test_a_check_says_how_often_a_term_was_obeyed(term, source, translation, count, applied):
    (result,) = check([term], source, translation)
    assert (result.source, result.target) == (term.source, term.target or term.source)
    assert (result.count, result.applied) == (count, applied)


@pytest.mark.parametrize(
    ("target", "translation", "lang", "obeyed"),
    [
        ("кибербезопасность", "о кибербезопасности", "ru", True),
        ("машинное обучение", "методы машинного обучения", "ru", True),
        ("машинное обучение", "методы машинного перевода", "ru", False),
        ("рынок", "на рынке", "ru", True),
        ("Zwischenspeicher", "des Zwischenspeichers", "de", True),
        ("akute Bronchitis", "mit akuter Bronchitis", "de", True),
        ("Katze", "der Kater", "de", False),
        ("infection", "des infections", "fr", True),
        ("école", "L’école", "fr", True),
        ("infectado", "personas infectadas", "es", True),
        ("infección", "infecciones", "es", True),
        ("vacinação", "vacinações", "pt", True),
        ("medico", "i medici", "it", True),
        ("server", "two servers", "en", True),
        ("COVID-19", "COVID-191", "en", False),
        ("فيروس", "الفيروسات", "ar", True),
        ("서버", "서버에서는", "ko", True),
        ("kitap", "kitabı", "tr", True),
        ("人工智能", "人工智能技术", "zh", True),
        ("人工智能", "人工智慧", "zh", False),
        ("AI", "Aida", "it", False),
    ],
)
def test_a_translated_term_may_be_inflected(target, translation, lang, obeyed):
    (result,) = check([Term("X", target)], "X", translation, "en", lang)
    assert result.applied == obeyed


def test_a_check_says_where_a_term_was_obeyed_and_no_oftener_than_it_should():
    (result,) = check([Term("cat", "Katze")], "A cat.", "Eine Katze, zwei Katzen.", "en", "de")
    assert result == TermResult("cat", "Katze", 1, 1, ((5, 10),), ((2, 5),))


@pytest.mark.parametrize(
    ("target", "translation"),
    [("Haus", "Die Häuser."), ("Buch", "Zwei Bücher."), ("Arzt", "Die Ärzte."), ("Mutter", "Mütter und Brüder")],
)
def test_a_german_plural_with_an_umlaut_obeys(target, translation):
    (result,) = check([Term("x", target)], "x", translation, "en", "de")
    assert result.applied == 1


def test_a_kept_word_is_there_though_it_is_glued_to_a_number():
    (result,) = check([Term("Windows", "")], "Windows 11", "Öffne Windows11.", "en", "de")
    assert (result.applied, result.places) == (1, ((6, 13),))


def test_terms_with_one_target_share_its_places():
    terms = [Term("automobile", "Auto"), Term("car", "auto")]
    results = check(terms, "A car, a car, an automobile.", "Auto, Auto.", "en", "de")
    assert [(result.count, result.applied) for result in results] == [(1, 1), (2, 1)]


def test_a_term_that_is_kept_and_one_that_is_translated_to_it_share_its_places():
    terms = [Term("HunYuan", ""), Term("混元", "HunYuan")]
    results = check(terms, "混元（HunYuan）", "HunYuan (HunYuan)", "zh", "en")
    assert [(result.count, result.applied) for result in results] == [(1, 1), (1, 1)]


def test_a_longer_target_is_not_counted_for_a_shorter_one():
    terms = [Term("shared memory", "gemeinsamer Speicher"), Term("memory", "Speicher")]
    results = check(terms, "Shared memory and memory", "Gemeinsamer Speicher.", "en", "de")
    assert [result.applied for result in results] == [1, 0]


def test_a_term_that_does_not_occur_is_not_checked():
    assert check([Term("dog", "Hund")], "A cat.", "Ein Hund.") == ()
