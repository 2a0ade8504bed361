"""What each device holds, as the meter shows it: sampled beside the requests, summing up, without touching a card."""

import sys
import threading
from collections.abc import Container, Iterator, Mapping
from dataclasses import astuple
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from engine import devices
from engine.backends.base import Backend
from engine.backends.echo import EchoBackend
from engine.backends.late import LateBackend
from engine.balance import LASTING_SAMPLES, Gap, Load, Standing, load_gap, memory_gap
from engine.cards import Card, Cards, visible
from engine.devices import SAMPLES, Device, Sampler
from engine.metrics import Metrics
from engine.server.answers import SystemAnswer
from engine.types import Replica
from tests.conftest import Serve, soon

GIB = 1 << 30
OURS = {"weights": 5 * GIB, "kv_used": GIB, "kv_total": 12 * GIB, "workspace": GIB, "graphs": GIB}
UUIDS = ["GPU-11aa", "GPU-11bb", "GPU-22cc"]


def sampler(
    memory: Mapping[str, int], *cards: Card, device: str = "cuda:0", process: int = GIB, limit: int | None = None
) -> Sampler:
    metrics = Metrics(lambda: memory, process_bytes=lambda: process, limit_bytes=limit)
    return Sampler(metrics, lambda: device, lambda: cards, lambda: (16 * GIB, 8 * GIB))


def card(used: int, allocated: int = 0, device: str = "cuda:0") -> Card:
    return Card(device, "NVIDIA L4", 24 * GIB, used, allocated)


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(EchoBackend())


# --------------------------------------------------------------------------------------------------------- what is held


def test_a_card_shows_weights_cache_workspace_and_the_rest() -> None:
    (ours,) = sampler(OURS, card(20 * GIB, allocated=19 * GIB)).sample().devices
    assert ours.parts == devices.Parts(5 * GIB, GIB, 11 * GIB, 2 * GIB, GIB, 4 * GIB)
    assert (ours.device, ours.name, ours.ours, ours.full) == ("cuda:0", "NVIDIA L4", True, False)


def test_of_several_cards_each_shows_what_is_on_it() -> None:
    first, second = Card("cuda:0", "NVIDIA L4", 24 * GIB, 20 * GIB), Card("cuda:1", "NVIDIA L4", 24 * GIB, 7 * GIB)
    other = Card("cuda:2", "NVIDIA L4", 24 * GIB, 3 * GIB)
    little = {"weights": 5 * GIB, "kv_used": 0, "kv_total": GIB}
    replicas = [
        Replica("cuda:0", "ready", "", OURS, 100),
        Replica("cuda:1", "ready", "", little, 0),
        Replica("cuda:3", "loading", "It comes.", {}, 0),
    ]
    watched = Sampler(
        Metrics(lambda: OURS),
        lambda: "cuda:0,cuda:1",
        lambda: [first, second, other],
        lambda: (16 * GIB, 8 * GIB),
        replicas=lambda: replicas,
    )
    sample = watched.sample()
    assert [(each.device, each.ours, each.parts.weights, each.parts.kv_used) for each in sample.devices] == [
        ("cuda:0", True, 5 * GIB, GIB),
        ("cuda:1", True, 5 * GIB, 0),
        ("cuda:2", False, 0, 0),
    ]
    assert sample.used_bytes == 27 * GIB
    assert sample.total
    assert (sample.total.device, sample.total.name) == ("cuda:0,cuda:1", "2 × NVIDIA L4")
    assert (sample.total.used_bytes, sample.total.parts.weights) == (27 * GIB, 10 * GIB)
    assert sum(astuple(sample.total.parts)) == sample.total.total_bytes == 48 * GIB


def test_a_model_over_several_cards_says_what_it_takes_on_each() -> None:
    memory = {"weights": 8 * GIB, "cuda:0/weights": 3 * GIB, "cuda:1/weights": 5 * GIB, "cuda:1/kv_total": GIB}
    cards = card(6 * GIB), card(7 * GIB, device="cuda:1")
    found = sampler(memory, *cards, device="cuda:0+cuda:1").sample().devices
    assert [(each.ours, each.parts.weights, each.parts.kv_free) for each in found] == [
        (True, 3 * GIB, 0),
        (True, 5 * GIB, GIB),
    ]


def test_a_card_whose_member_is_away_stays_ours_and_no_card_is_taken_for_the_cpu() -> None:
    away = [Replica(f"cuda:{number}", "loading", "It comes.", {}, 0) for number in (0, 1)]
    cards = [card(GIB), card(GIB, device="cuda:1"), card(GIB, device="cuda:2")]
    watched = Sampler(Metrics(dict), lambda: "cuda:0,cuda:1", lambda: cards, replicas=lambda: away)
    assert [(each.device, each.ours) for each in watched.sample().devices] == [
        ("cuda:0", True),
        ("cuda:1", True),
        ("cuda:2", False),
    ]


def test_processes_on_the_cpu_show_what_each_takes_and_servers_elsewhere_nothing() -> None:
    taken = {"weights": GIB, "kv_used": 0, "kv_total": 0, "resident": 2 * GIB}
    replicas = [
        Replica("cpu#1", "ready", "", taken, 7, 1, 4),
        Replica("http://there:8000/v1", "ready", "", {}, 9, 2, 8),
    ]
    watched = Sampler(Metrics(dict), lambda: "", tuple, lambda: (16 * GIB, 8 * GIB), replicas=lambda: replicas)
    here, there = watched.sample().members
    assert (here.devices, here.used_bytes, here.total_bytes) == (("cpu",), 2 * GIB, 16 * GIB)
    assert here.parts == devices.Parts(GIB, 0, 0, 0, GIB, 14 * GIB)
    assert (there.devices, there.used_bytes, there.parts) == ((), None, None)


def test_on_the_cpu_the_memory_of_the_program_has_the_same_parts() -> None:
    memory = {"weights": GIB // 4, "kv_used": GIB // 8, "kv_total": GIB // 2}
    (cpu,) = sampler(memory, device="cpu").sample().devices
    assert cpu.parts == devices.Parts(GIB // 4, GIB // 8, 3 * GIB // 8, 0, GIB // 4, 15 * GIB)
    assert (cpu.device, cpu.total_bytes, cpu.used_bytes, cpu.ours) == ("cpu", 16 * GIB, GIB, True)


@pytest.mark.parametrize(
    "watched",
    [
        sampler(OURS, card(20 * GIB)),
        sampler(OURS, card(20 * GIB), card(3 * GIB, device="cuda:1"), card(24 * GIB, device="cuda:2")),
        sampler(OURS, card(7 * GIB)),  # measured at another moment than ours
        sampler(OURS, card(20 * GIB, allocated=30 * GIB)),
        sampler({}, card(20 * GIB, allocated=3 * GIB), device=""),  # while it loads
        sampler(OURS, card(2 * GIB), device="cpu"),  # a cache whose pages were never written takes no memory
        sampler({}, device="none", process=17 * GIB),
    ],
)
def test_the_parts_add_up(watched: Sampler) -> None:
    found = watched.sample().devices
    assert found
    for device in found:
        assert sum(astuple(device.parts)) == device.total_bytes
        assert device.total_bytes - device.parts.free == device.used_bytes
        assert min(astuple(device.parts)) >= 0


def test_every_card_is_shown_and_only_the_models_is_ours_with_its_limit() -> None:
    cards = card(3 * GIB), card(20 * GIB, device="cuda:1")
    found = sampler(OURS, *cards, device="cuda:1", limit=21 * GIB).sample().devices
    assert [(each.device, each.ours, each.limit_bytes) for each in found] == [
        ("cuda:0", False, None),
        ("cuda:1", True, 21 * GIB),
    ]
    assert (found[0].parts.other, found[1].parts.weights) == (3 * GIB, 5 * GIB)


def test_a_model_on_the_cpu_leaves_the_cards_to_others() -> None:
    found = sampler(OURS, card(3 * GIB), device="cpu").sample().devices
    assert [(each.device, each.ours) for each in found] == [("cpu", True), ("cuda:0", False)]


def test_while_the_model_loads_the_card_it_goes_to_is_ours() -> None:
    found = sampler({}, card(GIB), card(GIB, GIB // 2, "cuda:1"), device="").sample().devices
    assert [each.ours for each in found] == [False, True]


def test_a_device_is_full_over_nine_tenths_but_an_empty_cache_is_room() -> None:
    def full(memory: Mapping[str, int], *cards: Card, device: str = "cuda:0") -> list[bool]:
        return [each.full for each in sampler(memory, *cards, device=device).sample().devices]

    busy = OURS | {"kv_used": 12 * GIB}
    assert full(OURS, card(23 * GIB)) == [False]
    assert full(busy, card(23 * GIB), card(22 * GIB, device="cuda:1"), card(21 * GIB, device="cuda:2")) == [
        True,
        True,
        False,
    ]
    assert full({}, device="cpu") == [False]
    crowded = Sampler(Metrics(process_bytes=lambda: GIB), lambda: "cpu", tuple, lambda: (16 * GIB, GIB))
    assert crowded.sample().devices[0].full  # by other programs


# -------------------------------------------------------------------------------------------------------------- balance


def lasting(*standings: Standing) -> list[Standing]:
    return [*standings] * LASTING_SAMPLES


def memory(**in_use: float) -> Standing:
    return Standing(in_use, {})


def load(**tokens: float) -> Standing:
    return Standing({}, {name: Load(each, True) for name, each in tokens.items()})


def test_memory_is_uneven_where_a_card_has_a_tenth_less_in_use_than_another_all_the_time() -> None:
    assert memory_gap(lasting(memory(a=0.80, b=0.75))) == Gap("a", "b", 0.06, False)
    assert memory_gap(lasting(memory(a=0.60, b=0.80))) == Gap("b", "a", 0.25, True)
    assert memory_gap([*lasting(memory(a=0.80, b=0.80)), memory(a=0.80, b=0.10)]) == Gap("a", "b", 0.06, False)
    assert memory_gap(lasting(memory(a=0.80))) is None
    assert memory_gap([*lasting(memory(a=0.80)), memory(a=0.80, b=0.40)]) is None  # it has just come
    assert memory_gap([]) is None


def test_cards_that_are_alike_do_not_change_places() -> None:
    gaps = [memory_gap(lasting(memory(a=0.9, b=0.600 + wave, c=0.601 - wave))) for wave in (0.0, 0.002)]
    assert gaps[0] == gaps[1] == Gap("a", "b", 0.33, True)


def test_work_is_uneven_only_where_one_is_full_all_the_time() -> None:
    assert load_gap(lasting(load(a=400, b=310))) == Gap("a", "b", 0.22, False)
    assert load_gap(lasting(load(a=400, b=100))) == Gap("a", "b", 0.75, True)
    idle = Standing({}, {"a": Load(400, False), "b": Load(0, False)})
    assert load_gap([*lasting(load(a=400, b=100)), idle]) is None
    assert load_gap(lasting(load(a=0, b=0))) == Gap("a", "a", 0.0, False)


class Several(EchoBackend):
    def replicas(self) -> list[Replica]:
        return [
            Replica("cpu#1", "ready", "", {"resident": 2 * GIB, "weights": GIB}, 900, 2, 2),
            Replica("cpu#2", "ready", "", {"resident": GIB, "weights": GIB}, 100, 1, 2),
            Replica("cpu#3", "loading", "It comes.", {}, 0, 0, 2),
            Replica("cpu#4", "failed", "It is lost.", {}, 0),
        ]


def test_who_is_away_and_what_is_uneven_is_told_in_words_and_figures(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "SAMPLE_SECONDS", 0.01)
    url = serve(Several())
    soon(lambda: httpx.get(f"{url}/system").json()["balance"]["load"] is not None)
    said = httpx.get(f"{url}/system").json()
    assert SystemAnswer.model_validate(said, extra="forbid").model_dump() == said
    assert [each["used_bytes"] for each in said["replicas"]] == [2 * GIB, GIB, None, None]
    assert (said["total"], [each["device"] for each in said["devices"] if each["ours"]]) == (None, ["cpu"])
    assert said["balance"]["memory"] == {"most": "cpu#1", "least": "cpu#2", "share": 0.5, "uneven": True}
    assert said["warnings"] == [
        "cpu#3 is being loaded again; the others translate meanwhile.",
        "cpu#4 is out of service; the others translate in its stead.",
        "cpu#2 has over 10% less memory in use than cpu#1.",
        "For half a minute cpu#1 has been full while cpu#2 had over 25% less to do.",
    ]
    figures = httpx.get(f"{url}/metrics").text
    for figure in ('replica_ready{replica="cpu#3"} 0.0', 'replica_tokens{replica="cpu#1"} 900.0'):
        assert f"yiwen_{figure}" in figures
    for figure in ('{kind="memory"} 0.5', '{kind="load"} 0.89'):
        assert f"yiwen_imbalance_ratio{figure}" in figures


def test_one_alone_is_neither_shared_nor_uneven(url: str) -> None:
    said = httpx.get(f"{url}/system").json()
    assert (said["replicas"], said["total"], said["warnings"]) == ([], None, [])
    assert said["balance"] == {"memory": None, "load": None}
    assert "yiwen_replica" not in httpx.get(f"{url}/metrics").text


# -------------------------------------------------------------------------------------------------------------- samples


def test_the_last_minute_is_kept_oldest_first() -> None:
    now = 0.0
    used = iter(range(1, 1000))
    watched = Sampler(
        Metrics(process_bytes=lambda: next(used)), lambda: "cpu", tuple, lambda: (GIB, GIB), clock=lambda: now
    )
    assert (watched.latest, watched.history()) == (None, [])
    for _ in range(SAMPLES + 10):
        now += 2.0
        watched.sample()
    past = watched.history()
    assert len(past) == SAMPLES
    assert [(ago, sample.used_bytes) for ago, sample in (past[0], past[-1])] == [(58.0, 11), (0.0, 40)]


def test_a_probe_that_fails_stops_neither_the_meter_nor_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "SAMPLE_SECONDS", 0.001)
    asked = 0

    def cards() -> list[Card]:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise OSError("The card fell off.")
        return []

    watched = Sampler(Metrics(), lambda: "cpu", cards)
    watched.start()
    soon(lambda: watched.latest is not None)
    watched.stop()
    assert asked >= 3


# -------------------------------------------------------------------------------------------------- cards by the driver


class DriverError(Exception):
    pass


def driver(*used: int | None, installed: bool = True, links: Container[tuple[int, int]] = ()) -> Any:
    """The driver's library for so many cards, of which NVLink joins these; None is one that cannot be read."""
    asked: list[str] = []

    def init() -> None:
        asked.append("init")
        if not installed:
            raise DriverError("NVML Shared Library Not Found")

    def memory(index: int) -> Any:
        if (taken := used[index]) is None:
            raise DriverError("GPU is lost")
        return SimpleNamespace(total=24 * GIB, free=24 * GIB - taken)

    def status(one: int, other: int, capability: str) -> int:
        if None in (used[one], used[other]):
            raise DriverError("GPU is lost")
        return 0 if capability == "NVLink" and (one, other) in links else 5

    def by_uuid(uuid: str) -> int:
        if uuid not in UUIDS:
            raise DriverError("Not Found")
        return UUIDS.index(uuid)

    return SimpleNamespace(
        asked=asked,
        NVMLError=DriverError,
        nvmlInit=init,
        nvmlDeviceGetCount=lambda: len(used),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=by_uuid,
        nvmlDeviceGetUUID=lambda index: UUIDS[index],
        nvmlDeviceGetName=lambda index: f"Card {index}",
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetP2PStatus=status,
        NVML_P2P_CAPS_INDEX_NVLINK="NVLink",
        NVML_P2P_STATUS_OK=0,
    )


@pytest.fixture
def no_card_is_touched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import torch

    def touch(*_: Any) -> None:
        raise AssertionError("a process on the CPU touched CUDA")

    for name in ("memory_reserved", "device_count", "get_device_properties", "mem_get_info", "init"):
        monkeypatch.setattr(torch.cuda, name, touch)
    yield
    assert not torch.cuda.is_initialized()


@pytest.mark.usefixtures("no_card_is_touched")
def test_cards_are_read_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver(GIB, 2 * GIB))
    assert Cards({}).read() == [
        Card("cuda:0", "Card 0", 24 * GIB, GIB),
        Card("cuda:1", "Card 1", 24 * GIB, 2 * GIB),
    ]


def test_where_torch_computes_on_cards_they_are_numbered_as_cuda_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA puts the fastest first, the driver the one in the first place of the bus."""
    import torch

    monkeypatch.setitem(sys.modules, "pynvml", driver(0, GIB, 2 * GIB))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=["22cc", "11aa"][index])
    )
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: 100 + index)
    assert [(each.name, each.device, each.allocated_bytes) for each in Cards({}).read()] == [
        ("Card 2", "cuda:0", 100),
        ("Card 0", "cuda:1", 101),
    ]


def test_a_card_that_is_lost_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver(GIB, None, 3 * GIB))
    assert [each.device for each in Cards({}).read()] == ["cuda:0", "cuda:2"]


@pytest.mark.parametrize(
    ("devices", "linked"),
    [
        (["cuda:0", "cuda:1"], True),
        (["cuda:0", "cuda:2"], False),
        (["cuda:0", "cuda:1", "cuda:2"], False),  # two of three pairs
        (["cuda:0", "cuda:7"], False),
        (["cuda:0", "cuda:3"], False),  # which the driver cannot read
        (["cpu", "cpu"], False),
    ],
)
@pytest.mark.usefixtures("no_card_is_touched")
def test_cards_are_linked_where_nvlink_joins_each_with_each(
    devices: list[str], linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver(0, 0, 0, None, links={(0, 1), (1, 2), (0, 3)}))
    assert Cards({}).linked(devices) == linked


def test_cards_of_a_driver_that_does_not_tell_are_not_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = driver(0, 0)

    def status(*_: object) -> int:
        raise DriverError("Not Supported")

    found.nvmlDeviceGetP2PStatus = status
    monkeypatch.setitem(sys.modules, "pynvml", found)
    assert not Cards({}).linked(["cuda:0", "cuda:1"])


@pytest.mark.parametrize("found", [driver(installed=False), driver()])
def test_without_a_driver_or_a_card_nothing_is_asked_again(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", found)
    cards = Cards({})
    assert [cards.read(), cards.read()] == [[], []]
    assert found.asked == ["init"]


def test_without_the_library_there_are_no_cards_but_those_torch_computes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not installed
    cards = Cards({})
    assert cards.read() == []
    for name, told in {
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "mem_get_info": lambda _: (4 * GIB, 24 * GIB),
        "memory_reserved": lambda _: 3 * GIB,
        "get_device_name": lambda _: "Orin",
    }.items():
        monkeypatch.setattr(torch.cuda, name, told)
    assert cards.read() == [Card("cuda:0", "Orin", 24 * GIB, 20 * GIB, 3 * GIB)]
    assert not cards.linked(["cuda:0", "cuda:1"])


@pytest.mark.parametrize(
    ("listed", "places"),
    [
        ("1", [1]),
        ("2,0", [2, 0]),
        (" 1 , 0 ", [1, 0]),
        ("GPU-22cc,GPU-11a", [2, 0]),
        ("GPU-11", []),  # two begin so
        ("0,7,1", [0]),  # what stands behind a number that is none does not count
        ("-1", []),
        ("", []),
        ("0,0", []),
        ("MIG-5,1", ["MIG-5", 1]),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(listed: str, places: list[int | str]) -> None:
    assert visible(listed, UUIDS) == places


def test_only_visible_cards_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver(0, GIB, 2 * GIB))
    found = Cards({"CUDA_VISIBLE_DEVICES": "GPU-22cc,1,MIG-gone"}).read()
    assert [(each.device, each.name) for each in found] == [("cuda:0", "Card 2"), ("cuda:1", "Card 1")]


# -------------------------------------------------------------------------------------------------------------- /system


def test_system_is_answered_as_described(url: str) -> None:
    soon(lambda: bool(httpx.get(f"{url}/system").json()["devices"]))
    said = httpx.get(f"{url}/system").json()
    assert SystemAnswer.model_validate(said, extra="forbid").model_dump() == said
    assert said["state"] == {"status": "ready", "stage": "", "done": 1.0, "seconds_left": 0.0, "reason": ""}
    assert (said["cache"], said["pages"]) == (None, None)  # echo has none
    ours = next(each for each in said["devices"] if each["ours"])
    assert (ours["device"], ours["used_bytes"]) == ("cpu", said["memory_bytes"]["process"])
    assert said["history"][-1]["used_bytes"] == ours["used_bytes"]


def test_versions_are_those_that_are_installed(url: str) -> None:
    said = httpx.get(f"{url}/system").json()["versions"]
    names = {"torch", "gradio", "openvino", "onnxruntime"}
    assert {name: said[name] for name in names} == {name: version(name) for name in names}
    assert said.keys() == names | {"yiwen", "python", "cuda"}


def test_while_the_model_loads_the_devices_are_there_and_the_model_is_not(serve: Serve) -> None:
    go_on = threading.Event()

    def load(_: Any) -> Backend:
        go_on.wait(30)
        return EchoBackend()

    url = serve(LateBackend(load), tested=False)
    soon(lambda: bool(httpx.get(f"{url}/system").json()["devices"]))
    said = httpx.get(f"{url}/system").json()
    assert (said["model"], said["plan"], said["cache"]) == (None, None, None)
    assert said["state"]["status"] == "loading"
    assert said["devices"][0]["used_bytes"] > 1_000_000
    go_on.set()
    soon(lambda: httpx.get(f"{url}/system").json()["model"] is not None)


def test_a_request_measures_nothing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "SAMPLE_SECONDS", 3600.0)  # there is the first sample only

    class Counted(EchoBackend):
        measured = 0

        def memory(self) -> dict[str, int]:
            self.measured += 1
            return {}

    backend = Counted()
    url = serve(backend)
    soon(lambda: bool(httpx.get(f"{url}/system").json()["devices"]))
    before = backend.measured
    for _ in range(20):
        httpx.get(f"{url}/system")
    assert backend.measured == before


def test_the_share_of_prompts_found_in_the_cache_is_told(
    serve: Serve, embedded: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "SAMPLE_SECONDS", 0.05)
    text = "The ferry to the island leaves at nine in the morning and comes back before the sun goes down. " * 2
    said: dict[str, Any] = {}
    url = serve(embedded)

    def sampled() -> bool:
        said.update(httpx.get(f"{url}/system").json())
        return bool(said["cache"] and said["cache"]["hit_rate"])

    for _ in range(2):
        httpx.post(f"{url}/translate", json={"text": text, "source_lang": "en", "target_lang": "fr"})
    soon(sampled)
    assert 0 < said["cache"]["hit_rate"] < 1
    assert said["cache"]["pages_free"] == said["pages"]["free"] > 0
    ours: dict[str, Any] = next(each for each in said["devices"] if each["ours"])
    assert ours["parts"]["weights"] == said["memory_bytes"]["weights"] > 0
    assert SystemAnswer.model_validate(said, extra="forbid")


def test_a_hit_rate_is_not_told_where_nothing_was_asked_or_nothing_is_shared() -> None:
    assert Metrics(lambda: {"pages_used": 1, "pages_free": 1}).held().hit_rate is None
    assert Metrics(lambda: {"prompt_tokens": 0, "shared_tokens": 0}).held().hit_rate is None
    assert Metrics(lambda: {"prompt_tokens": 400, "shared_tokens": 100}).held().hit_rate == 0.25


def test_a_device_has_all_that_the_page_reads() -> None:
    assert set(Device.__dataclass_fields__) == set(
        SystemAnswer.model_json_schema()["$defs"]["DeviceAnswer"]["required"]
    )
