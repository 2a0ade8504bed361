from engine.context import fitted, windows
from tests.timing import cpu_at_most


def words(text):
    return len(text.split())


def test_a_context_that_fits_is_shown_as_it_is():
    assert fitted("  A tale of ships.\n", words) == "A tale of ships."


def test_of_a_long_context_the_last_sentences_are_shown():
    assert fitted("One two three. Four five six. Seven eight nine.", words, 7) == "Four five six. Seven eight nine."


def test_of_a_sentence_that_is_too_long_the_last_words():
    assert fitted("one two three four five", words, 2) in ("four five", "five")


def test_no_half_sentence_is_shown_where_a_whole_one_fits():
    context = "A first sentence that goes on and on and on. " * 400 + "The last one."
    assert fitted(context, words, 12) == "A first sentence that goes on and on and on. The last one."[-13:]


def test_a_segment_is_shown_the_sentences_before_it():
    assert windows(["One.", " Two.", "\n\nThree."], words) == ["", "One.", "One. Two."]


def test_the_window_slides():
    texts = [f" Sentence number {number}." for number in range(100)]
    assert windows(texts, words, 7)[99] == "Sentence number 97. Sentence number 98."


def test_of_a_long_segment_the_last_sentences_are_shown():
    assert windows(["One two three. Four five six.", " Seven."], words, 4)[1] == "Four five six."


def test_a_sentence_that_does_not_fit_is_not_shown_in_part():
    assert windows(["One two three four five six.", " Seven.", " Eight."], words, 4) == ["", "", "Seven."]


def test_the_window_is_never_over_its_budget():
    texts = ["中文没有空格" * number + "。" for number in range(1, 60)]
    assert all(len(shown) <= 50 for shown in windows(texts, len, 50))


def test_a_book_takes_linear_time():
    with cpu_at_most(5):
        windows([" A sentence of a book."] * 50_000, lambda text: len(text) // 4 + 1)
        fitted("word " * 2_000_000, lambda text: len(text) // 4 + 1)
