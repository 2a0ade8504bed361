import asyncio

import pytest

from engine.errors import Overloaded
from engine.scheduler import Scheduler


async def work(scheduler, request_id, done, seconds=0.001):
    async with scheduler.slot(request_id):
        await asyncio.sleep(seconds)
        done.append(request_id)


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


def test_no_more_run_than_there_are_slots():
    async def go():
        scheduler, running, peak = Scheduler(3, 10), 0, 0

        async def one(name):
            nonlocal running, peak
            async with scheduler.slot(name):
                running += 1
                peak = max(peak, running)
                await asyncio.sleep(0)
                running -= 1

        await asyncio.gather(*(one(str(number % 7)) for number in range(100)))
        assert peak == 3
        assert (scheduler.free, scheduler.waiting) == (3, 0)

    asyncio.run(go())


def test_requests_take_turns_a_segment_each():
    async def go():
        scheduler, done = Scheduler(1, 10), []
        await asyncio.gather(*(work(scheduler, name, done) for name in "aaaabbbc"))
        assert "".join(done) == "aabcabab"  # the first a ran at once

    asyncio.run(go())


def test_a_line_that_comes_late_waits_for_one_turn_only():
    async def go():
        scheduler, done = Scheduler(1, 10), []
        book = [asyncio.create_task(work(scheduler, "book", done)) for _ in range(50)]
        await settle()
        before = len(done)
        await work(scheduler, "line", done)
        assert done.index("line") - before <= 2  # the one at work, and the one that was next
        await asyncio.gather(*book)

    asyncio.run(go())


def test_one_request_too_many_is_refused_and_told_how_many_there_are():
    scheduler = Scheduler(1, 2)
    with scheduler.admit("a"), scheduler.admit("b"):
        with pytest.raises(Overloaded, match="2 requests") as refused, scheduler.admit("c"):
            pass
        assert refused.value.retry_after_seconds > 0
        assert scheduler.requests == 2
    assert scheduler.requests == 0
    with scheduler.admit("c"):
        assert scheduler.requests == 1


def test_who_must_wait_knows_how_many_requests_are_ahead():
    async def go():
        scheduler, done = Scheduler(1, 10), []
        assert scheduler.ahead("a") == 0
        tasks = [asyncio.create_task(work(scheduler, name, done)) for name in "aaabbc"]
        await settle()
        assert [scheduler.ahead(name) for name in "abcd"] == [0, 1, 2, 3]
        await asyncio.gather(*tasks)

    asyncio.run(go())


def test_who_stops_waiting_leaves_the_ring():
    async def go():
        scheduler, done = Scheduler(1, 10), []
        tasks = [asyncio.create_task(work(scheduler, name, done)) for name in "abbc"]
        await settle()
        for task in tasks[1:3]:
            task.cancel()
        await settle()
        assert scheduler.waiting == 1
        assert scheduler.ahead("d") == 2
        await asyncio.gather(*tasks, return_exceptions=True)
        assert done == ["a", "c"]
        assert scheduler.free == 1

    asyncio.run(go())


def test_a_slot_granted_at_the_moment_of_the_cancel_is_passed_on():
    async def go():
        scheduler, done = Scheduler(1, 10), []
        async with scheduler.slot("first"):
            cancelled = asyncio.create_task(work(scheduler, "cancelled", done))
            follower = asyncio.create_task(work(scheduler, "follower", done))
            await settle()
        cancelled.cancel()  # its turn has been set, and it has not run since
        await asyncio.wait_for(follower, 1)
        assert done == ["follower"]
        assert scheduler.free == 1

    asyncio.run(go())


def test_a_cancelled_turn_is_not_granted():
    async def go():
        scheduler, done = Scheduler(1, 10), []
        async with scheduler.slot("first"):
            cancelled = asyncio.create_task(work(scheduler, "cancelled", done))
            follower = asyncio.create_task(work(scheduler, "follower", done))
            await settle()
            cancelled.cancel()  # and the slot is free before it has left the ring
        await asyncio.wait_for(follower, 1)
        assert done == ["follower"]
        assert (scheduler.free, scheduler.waiting) == (1, 0)

    asyncio.run(go())


def test_an_error_frees_the_slot():
    async def go():
        scheduler = Scheduler(1, 10)
        with pytest.raises(RuntimeError):
            async with scheduler.slot("a"):
                raise RuntimeError
        assert scheduler.free == 1

    asyncio.run(go())


def test_where_there_are_many_slots_one_of_them_is_only_lent_until_somebody_comes_new():
    async def go():
        scheduler, done = Scheduler(8, 10), []
        with scheduler.admit("book"), scheduler.admit("tome"):
            await work(scheduler, "book", done)
            await work(scheduler, "tome", done)
            later = [asyncio.create_task(work(scheduler, name, done, 9.0)) for name in ["book", "tome"] * 50]
            await settle()
            assert (scheduler.free, scheduler.ahead("line")) == (0, 0)
            with scheduler.admit("line"), scheduler.admit("another"):
                async with scheduler.slot("line") as first:
                    assert first
                    assert scheduler.ahead("another") == 3  # no more than one is lent
            assert scheduler.waiting == 92
            for task in later:
                task.cancel()
            await asyncio.gather(*later, return_exceptions=True)
        assert (scheduler.free, scheduler.waiting) == (8, 0)

    asyncio.run(go())


def test_a_book_goes_on_beside_a_crowd_that_asks_line_after_line():
    async def go():
        scheduler, done = Scheduler(8, 100), []

        async def client(name):
            for number in range(30):
                with scheduler.admit(f"{name}, {number}"):
                    await work(scheduler, f"{name}, {number}", done)

        with scheduler.admit("book"):
            book = [asyncio.create_task(work(scheduler, "book", done)) for _ in range(20)]
            await asyncio.gather(*(client(name) for name in range(40)), *book)
        assert done.count("book") == 20
        assert [at for at, name in enumerate(done) if name == "book"][15] < 900  # of 1,220

    asyncio.run(go())
