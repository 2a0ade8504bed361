"""The plan: a simulated load against what queueing theory says of it, and the fewest cards that are enough."""

import asyncio
import json
import random
import time
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest

from engine.tools import bench, bench_plan, measured
from engine.tools.bench_plan import Load
from engine.tools.measured import Step, Timed, fitted
from engine.tools.simulated import Curve, Part, Request, between, on_a_jumping_clock, simulate
from tests.commands import call, refusal_of, result_of

CURVES = Path(bench.__file__).parent / "curves"
H200 = CURVES / "7b-int4-h200.json"
CURVE = Curve(
    name="clockwork",
    rows=((1, 0.010), (8, 0.017)),
    prompts=((10, 0.020), (110, 0.120)),
    shared=0.010,
    ahead=False,
    prefill_tokens=128,
    slots=8,
    kv_tokens=8 * 1_024,
    segment_tokens=80,
)


@pytest.fixture(autouse=True)
def haste(monkeypatch):
    monkeypatch.setattr(bench_plan, "REQUESTS", 300)
    monkeypatch.setattr(bench_plan, "LEAST_SECONDS", 2.0)


def of(**changed):
    return Curve(**{name: changed.get(name, getattr(CURVE, name)) for name in Curve.__dataclass_fields__})


def poisson(rate, seconds, part, seed=1):
    dice, at, requests = random.Random(seed), 0.0, []
    while (at := at + dice.expovariate(rate)) < seconds:
        requests.append(Request(at, (part,)))
    return requests


def test_who_comes_alone_waits_for_the_step_of_its_prompt_and_one_a_token():
    (answered,) = simulate(CURVE, 1, [Request(5.0, (Part(60, 11),))]).answered
    assert answered.came == pytest.approx(5.0 + 0.070)
    assert answered.ended == pytest.approx(5.0 + 0.070 + 10 * 0.010)


def test_a_card_that_works_ahead_tells_a_token_when_its_step_has_ended():
    (answered,) = simulate(of(ahead=True), 1, [Request(5.0, (Part(60, 11),))]).answered
    assert answered.came == pytest.approx(5.0 + 0.070)
    assert answered.ended == pytest.approx(5.0 + 0.070 + 10 * 0.010)


def test_a_queue_of_one_slot_waits_as_pollaczek_and_khinchine_say():
    """M/D/1: the mean wait is ρ s / 2 (1 − ρ)."""
    service, busy = 0.070 + 2 * 0.010, 0.6
    requests = poisson(busy / service, 500, Part(60, 3))
    waited = [each.ended - each.request.at - service for each in simulate(of(slots=1), 1, requests).answered]
    assert fmean(waited) == pytest.approx(busy * service / 2 / (1 - busy), rel=0.1)


def test_all_who_run_share_a_step():
    together = simulate(CURVE, 1, [Request(0.0, (Part(10, 101),))] * 8)
    assert together.row_seconds / together.busy == pytest.approx(8, abs=0.5)
    assert max(each.ended for each in together.answered) == pytest.approx(0.090 + 100 * 0.017, abs=0.01)


def test_the_segments_of_a_book_leave_a_line_its_turn():
    book, line = Request(0.0, (Part(60, 80),) * 100), Request(5.0, (Part(20, 5),))
    beside = simulate(CURVE, 1, [book, line])
    assert next(each.came for each in beside.answered if each.request is line) - line.at < 0.2
    assert beside.preempted == 1  # it has the slot of a segment that goes on after it


def test_cards_get_the_same_share_of_the_load():
    requests = poisson(20, 60, Part(60, 40))
    one, four = simulate(CURVE, 1, requests[: len(requests) // 4]), simulate(CURVE, 4, requests)
    assert len(four.answered) == len(requests)
    assert 0.5 < four.busy / one.busy < 2


def test_who_finds_no_page_steps_back_and_is_answered_all_the_same():
    short = simulate(of(kv_tokens=320), 1, [Request(0.0, (Part(30, 90),))] * 6)
    assert short.preempted > 0
    assert len(short.answered) == 6


def test_a_minute_of_the_simulated_clock_takes_no_minute():
    began = time.monotonic()
    assert on_a_jumping_clock(asyncio.sleep(3_600, "then")) == "then"
    assert time.monotonic() - began < 60


def test_between_two_points_and_beyond_them_the_line_goes_on():
    assert between(((2, 1.0), (4, 3.0)), 3) == 2
    assert between(((2, 1.0), (4, 3.0)), 5) == 4
    assert between(((2, 1.0), (4, 3.0)), 1) == 0
    assert between(((2, 1.0),), 9) == 1


def test_prompts_come_in_beside_rows_while_these_wait_three_times_as_long():
    for rows in (1, 4, 8):
        most = CURVE.beside_tokens[rows]
        assert CURVE.seconds(rows, most) <= 3 * CURVE.seconds(rows, 0) < CURVE.seconds(rows, most + 1)
    assert of(beside=((1, 13),)).beside_tokens[1] == 13


def test_a_load_has_the_words_asked_for_and_no_segment_that_is_too_long():
    load = Load(words_a_second=20.0, words_a_request=50.0, tokens_a_word=1.5, segment_tokens=80)
    parts = [part for request in load.draw(2_000, 1) for part in request.parts]
    assert sum(part.answer for part in parts) == pytest.approx(2_000 * 20 * 1.5 * bench_plan.ANSWER_SHARE, rel=0.1)
    assert max(part.prompt for part in parts) == bench_plan.TEMPLATE_TOKENS + bench_plan.WINDOW_TOKENS + 80
    assert load.draw(2_000, 1) == load.draw(2_000, 1) != load.draw(2_000, 2)


def test_a_curve_is_read_off_steps_of_all_kinds():
    steps = [Step(rows, 0, 0.010 + 0.001 * rows) for rows in (1, 2, 4, 8)]
    steps += [Step(0, tokens, 0.020 + 0.001 * tokens) for tokens in (10, 60, 120)]
    steps += [Step(rows, tokens, 0.018 + 0.001 * (rows + tokens)) for rows, tokens in ((1, 13), (3, 40), (8, 48))]
    rows, alone, beside, token = fitted(steps)
    assert dict(rows)[4] == pytest.approx(0.014)
    assert (alone, beside, token) == pytest.approx((0.020, 0.008, 0.001))


def test_what_is_done_between_steps_counts_while_anybody_is_under_way(monkeypatch):
    clock = SimpleNamespace(now=1.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(measured, "time", clock)
    chunk = SimpleNamespace(ids=[0] * 30)
    runner = SimpleNamespace(step=lambda *_: SimpleNamespace(tokens=list))
    batch = SimpleNamespace(running=0)
    timed = Timed(runner, lambda: batch.running)

    def step(chunks, rows, running, after):
        clock.now += after
        batch.running = running
        pending = runner.step([chunk] * chunks, [*range(rows)], [None] * rows)
        clock.now += 0.010
        pending.tokens()
        return timed.steps[-1]

    assert step(1, 0, running=1, after=5.0) == Step(0, 30, pytest.approx(0.010))  # nobody was there
    assert step(0, 1, running=1, after=0.004) == Step(1, 0, pytest.approx(0.014))
    assert step(2, 0, running=3, after=0.004) == Step(0, 60, pytest.approx(0.014))  # a row waits for these
    assert step(1, 0, running=1, after=5.0) == Step(0, 30, pytest.approx(0.010))


def planned(capsys, *options):
    return result_of(capsys, bench, "plan", *options)


def test_one_card_fewer_would_not_do(capsys, tmp_path):
    file = tmp_path / "curve.json"
    file.write_text(json.dumps({"curve": bench_plan._written(CURVE)}))
    result, shown = planned(
        capsys, "--users", 60, "--words-per-minute", 100, "--curve", file, "--card-price", 2, "--first-token-ms", 500
    )
    cards, tried = result["cards"], result["tried"]
    assert tried[str(cards)]["first_ms"]["p99"] <= 500 < tried[str(cards - 1)]["first_ms"]["p99"]
    assert result["work_of_cards"] < cards
    assert result["cost_a_million_words"] == pytest.approx(cards * 2 / (100 * 3_600) * 1e6, abs=0.01)
    assert f"words/s: {cards} cards" in shown


def test_what_a_plan_prints_is_a_curve_for_the_next(capsys, tmp_path):
    options = ["--users", 2_000, "--words-per-minute", 30, "--curve"]
    first, _ = planned(capsys, *options, H200)
    (tmp_path / "plan.json").write_text(json.dumps(first))
    second, _ = planned(capsys, *options, tmp_path / "plan.json")
    assert second["curve"] == first["curve"]
    assert second["cards"] == first["cards"]
    assert first["curve"]["name"] == "synthetic 7b, INT4, NVIDIA H200"
    assert first["curve"]["slots"] == 128


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give --users and --words-per-minute"),
        (["--users", "9", "--words-per-minute", "9", "--curve", "nowhere.json"], "No such file or directory"),
        (["--users", "9", "--words-per-minute", "9", "--curve", __file__], "holds no curve"),
        (["--users", "9", "--words-per-minute", "9", "--curve", H200, "--first-token-ms", "1"], "no number of cards"),
        (["--users", "9", "--words-per-minute", "9", "--curve", H200, "--kv-tokens", "64"], "do not fit the memory"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(options, said):
    with pytest.raises(SystemExit, match=said):
        call(bench, "plan", *options)


def test_no_users_are_refused(capsys):
    assert "is not a whole number from 1 on" in refusal_of(capsys, bench, "plan", "--users", "0")


def test_the_model_itself_is_asked_the_same(tiny_checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(bench_plan, "CHECK_SECONDS", 1.0)
    monkeypatch.setattr(bench_plan, "CHECK_TURNS", 1)
    options = ["--check", "--model", tiny_checkpoint, "--device", "cpu", "--segment-tokens", 60]
    result, shown = planned(capsys, *options)
    for check in (turn for turns in result["check"].values() for turn in turns):
        assert check["measured"].keys() == check["simulated"].keys()
        assert check["measured"]["first_token_ms"]["p99"] > 0
        assert check["error"].keys() >= {"tokens_a_second", "first_token_p50"}
        assert check["error"].keys() == check["own_error"].keys()
    assert [int(rows) for rows in result["curve"]["row_ms"]] == sorted(map(int, result["curve"]["row_ms"]))
    assert "with the curves of these very steps: tokens_a_second" in shown
