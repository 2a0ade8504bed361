import time

from engine.context import windows


def words(text):
    return len(text.split())


def test_without_context_a_segment_is_shown_nothing():
    assert windows(["One.", " Two."], "", False, words) == ["", ""]


def test_the_users_context_is_shown_to_every_segment():
    assert windows(["One.", " Two."], "A tale of ships.", False, words) == ["A tale of ships."] * 2


def test_a_long_context_is_cut_at_a_sentence():
    assert windows(["x"], "One two three. Four five six. Seven eight nine.", False, words, 7) == [
        "Four five six. Seven eight nine."
    ]


def test_or_at_a_word():
    assert windows(["x"], "one two three four five", False, words, 2)[0] in ("four five", "five")


def test_a_segment_is_shown_the_text_before_it():
    assert windows(["One.", " Two.", "\n\nThree."], "", True, words) == ["", "One.", "One. Two."]


def test_the_window_slides():
    texts = [f" Sentence number {number}." for number in range(100)]
    assert windows(texts, "", True, words, 7)[99] == "Sentence number 97. Sentence number 98."


def test_of_a_long_segment_its_end_is_shown():
    assert windows(["One two three. Four five six.", " Seven."], "", True, words, 4)[1] == "Four five six."


def test_the_users_context_comes_before_the_text():
    assert windows(["One.", " Two."], "A tale.", True, words) == ["A tale.", "A tale.\nOne."]


def test_no_part_of_the_window_is_over_its_budget():
    texts = ["中文没有空格" * number for number in range(1, 60)]
    assert all(len(shown) <= 50 for shown in windows(texts, "", True, len, 50))


def test_a_book_takes_linear_time():
    began = time.perf_counter()
    windows([" A sentence of a book."] * 50_000, "word " * 200_000, True, lambda text: len(text) // 4 + 1)
    assert time.perf_counter() - began < 5
