"""Order, batches, and the life of a worker on this engine."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import Any

from ... import Batch, Delivery, Queue, Reject, Retry, Topic, Unsupported
from ...features import Features, Refusal
from .kit import SEED, Kit, Suite, scenario, until

placed = Topic("orders.placed", tuple[str, int], ordered=True, key=lambda order: order[0], lanes=8)
NUMBERS = Queue("work", int)


class RunContract(Suite):
    """Workers: order per key, batches, drain, idling."""

    @scenario
    async def test_order_per_key_with_concurrency_and_failures(self, kit: Kit) -> None:
        """Never two of a key at once, never one before its elder, and different keys beside each other."""
        app, rng = kit.app(), random.Random(SEED)
        done: dict[str, list[int]] = {}
        running: set[str] = set()
        most = 0

        @app.subscribe(placed, concurrency=32, retry=Retry(attempts=None, delay=0.01, factor=1))
        async def handle(order: tuple[str, int]) -> None:
            nonlocal most
            key, number = order
            assert key not in running, f"two of {key} at once"
            running.add(key)
            most = max(most, len(running))
            try:
                await asyncio.sleep(rng.random() * 0.004)
                if rng.random() < 0.1:
                    raise OSError("now and then")
                done.setdefault(key, []).append(number)
            finally:
                running.remove(key)

        async with app:
            if isinstance(app.features.ordered, Refusal):
                return
            await app.publish_many(placed, [(f"c{n % 20}", n) for n in range(400)])
            await app.run(until_idle=True)
            assert await app.dead_letters().count() == 0
        assert done == {f"c{k}": list(range(k, 400, 20)) for k in range(20)}
        assert most > 4

    @scenario
    async def test_order_over_two_workers(self, kit: Kit) -> None:
        """Both have a share, and a key's order holds while one joins and one leaves."""
        apps, done = [kit.app(), kit.app()], dict[str, list[int]]()
        served, sent, enough = [0, 0], 0, asyncio.Event()

        def declare(index: int) -> None:
            @apps[index].subscribe(placed, concurrency=8)
            async def handle(order: tuple[str, int]) -> None:
                await asyncio.sleep(0.002)
                done.setdefault(order[0], []).append(order[1])
                served[index] += 1

        async def feed() -> None:
            nonlocal sent
            while not enough.is_set():
                await apps[0].publish_many(placed, [(f"c{n % 40}", n) for n in range(sent, sent + 40)])
                sent += 40
                await asyncio.sleep(0.02)

        declare(0)
        declare(1)
        async with apps[0], apps[1]:
            if isinstance(apps[0].features.ordered, Refusal):
                return
            feeding = asyncio.ensure_future(feed())
            async with apps[0].running():
                await until(lambda: served[0] >= 100)
                async with apps[1].running():
                    await until(lambda: served[1] >= 100)
            enough.set()
            await feeding
            await apps[1].run(until_idle=True)
        assert done == {f"c{k}": list(range(k, sent, 40)) for k in range(40)}

    @scenario
    async def test_an_ordered_key_goes_on_after_its_dead_letter(self, kit: Kit) -> None:
        app, done = kit.app(), list[int]()

        @app.subscribe(placed, retry=Retry(attempts=2, delay=0.02))
        async def handle(order: tuple[str, int]) -> None:
            if order[1] == 1:
                raise ValueError("poison")
            done.append(order[1])

        async with app:
            if isinstance(app.features.ordered, Refusal):
                return
            await app.publish_many(placed, [("c", n) for n in range(5)])
            await app.run(until_idle=True)
            assert [letter.message.key async for letter in app.dead_letters(placed)] == ["c"]
        assert done == [0, 2, 3, 4]

    # -- batches ----------------------------------------------------------------------------------------------------

    @scenario
    async def test_batches(self, kit: Kit) -> None:
        """Of at most their size, and not waiting longer than their wait."""
        app, sizes, seen = kit.app(), list[int](), list[int]()

        @app.receive(NUMBERS, batch=Batch(10, wait=0.2))
        async def handle(numbers: list[int], delivery: Delivery) -> None:
            assert len(delivery.messages) == len(numbers)
            sizes.append(len(numbers))
            seen.extend(numbers)

        async with app:
            await app.send_many(NUMBERS, range(25))
            await app.run(until_idle=True)
        assert sorted(seen) == list(range(25))
        assert max(sizes) == 10
        assert len(sizes) <= 5

    @scenario
    async def test_one_item_of_a_batch_fails(self, kit: Kit) -> None:
        app, seen = kit.app(), list[tuple[int, int]]()

        @app.receive(NUMBERS, batch=Batch(5, wait=0.1), retry=Retry(attempts=3, delay=0.02))
        async def handle(numbers: list[int], delivery: Delivery) -> None:
            for index, number in enumerate(numbers):
                seen.append((number, delivery.attempt))
                if number == 3 and delivery.attempt == 1:
                    delivery.fail(index, ValueError("three"))
                if number == 4:
                    delivery.fail(index, Reject("four"))

        async with app:
            await app.send_many(NUMBERS, range(5))
            await app.run(until_idle=True)
            assert [letter.message.body async for letter in app.dead_letters(NUMBERS)] == [b"4"]
        assert sorted(seen) == [(0, 1), (1, 1), (2, 1), (3, 1), (3, 2), (4, 1)]

    # -- life -------------------------------------------------------------------------------------------------------

    @scenario
    async def test_until_idle_waits_for_retries_and_what_they_emit(self, kit: Kit) -> None:
        app, done = kit.app(), list[str]()
        mails = Queue("mails", int)

        @app.receive(NUMBERS, retry=Retry(attempts=4, delay=0.1, factor=1))
        async def handle(number: int, delivery: Delivery) -> None:
            if delivery.attempt < 3:
                raise OSError("not yet")
            delivery.send(mails, number)

        @app.receive(mails)
        async def mail(number: int) -> None:
            await asyncio.sleep(0.05)
            done.append("mailed")

        async with app:
            await app.send(NUMBERS, 1)
            await app.send(NUMBERS, 2, delay=3600) if not isinstance(app.features.delay, Refusal) else None
            await app.run(until_idle=True)
        assert done == ["mailed"]

    @scenario
    async def test_leaving_drains(self, kit: Kit) -> None:
        """What runs ends well; what was not started goes back uncounted."""
        app, started, ended, attempts = kit.app(), list[int](), list[int](), list[int]()

        @app.receive(NUMBERS, concurrency=2)
        async def handle(number: int, delivery: Delivery) -> None:
            started.append(number)
            attempts.append(delivery.attempt)
            await asyncio.sleep(0.1)
            ended.append(number)

        async with app:
            await app.send_many(NUMBERS, range(10))
            async with app.running():
                await until(lambda: len(started) >= 2)
            assert started == ended
            assert len(started) < 10
            await app.run(until_idle=True)
        assert sorted(ended) == list(range(10))
        assert set(attempts) == {1}

    @scenario
    async def test_ten_deploys_bury_nothing(self, kit: Kit) -> None:
        """Workers with much in hand stop again and again; nobody's message is blamed for it."""
        app, attempts = kit.app(), dict[int, int]()

        @app.receive(NUMBERS, concurrency=1)
        async def handle(number: int, delivery: Delivery) -> None:
            attempts[number] = delivery.attempt
            await asyncio.sleep(0.01)

        async def deploy() -> None:
            before = len(attempts)
            async with app.running():
                await until(lambda: len(attempts) > before)

        async with app:
            await app.send_many(NUMBERS, range(100))
            for _ in range(10):
                await deploy()
            await app.run(until_idle=True)
            assert await app.dead_letters().count() == 0
        assert len(attempts) == 100
        assert set(attempts.values()) == {1}

    @scenario
    async def test_pause_and_resume(self, kit: Kit) -> None:
        app, seen = kit.app(), list[int]()

        @app.receive(NUMBERS)
        async def handle(number: int) -> None:
            seen.append(number)

        async with app.running():
            app.pause(NUMBERS)
            await app.send_many(NUMBERS, range(3))
            await asyncio.sleep(0.2)
            assert seen == []
            app.resume(NUMBERS)
            await until(lambda: len(seen) == 3)

    @scenario
    async def test_redriving_by_cause(self, kit: Kit) -> None:
        app, broken, seen = kit.app(), [True], list[int]()

        @app.receive(NUMBERS, retry=Retry(attempts=1))
        async def handle(number: int) -> None:
            if broken[0]:
                raise (OSError if number % 2 else ValueError)(number)
            seen.append(number)

        async with app:
            await app.send_many(NUMBERS, range(10))
            await app.run(until_idle=True)
            letters = app.dead_letters(NUMBERS)
            assert await letters.count() == 10
            assert {cause.error: cause.count for cause in await letters.causes()} == {"OSError": 5, "ValueError": 5}
            broken[0] = False
            assert await letters.where(error="OSError").redrive(dry_run=True) == 5
            assert await letters.where(error="OSError").redrive() == 5
            await app.run(until_idle=True)
            assert sorted(seen) == [1, 3, 5, 7, 9]
            assert await letters.count() == 5
            assert await letters.discard() == 5
            assert await letters.count() == 0

    @scenario
    async def test_replaying_to_a_group(self, kit: Kit) -> None:
        app, seen = kit.app(), list[int]()
        made = Topic("events.made", int, history=timedelta(days=1))

        @app.subscribe(made, group="billing")
        async def handle(number: int) -> None:
            seen.append(number)

        async with app:
            if isinstance(app.features.replay, Refusal):
                return
            await app.publish_many(made, range(5))
            await app.run(until_idle=True)
            assert await app.replay(made, group="billing", since="start", dry_run=True) == 5
            assert await app.replay(made, group="billing", since="start") == 5
            await app.run(until_idle=True)
        assert sorted(seen) == sorted([*range(5), *range(5)])

    @scenario
    async def test_what_the_engine_refuses_is_refused_at_start(self, kit: Kit) -> None:
        """Every capability that the features refuse, all at once, and nothing that they claim."""
        async with kit.app() as probe:
            refused = _refused(probe.features)
        app = kit.app()

        @app.subscribe(Topic("events.made", int), broadcast=True)
        async def everywhere(number: int) -> None: ...

        @app.subscribe("orders.*", group="watch")
        async def watch(body: Any) -> None: ...

        @app.subscribe(placed, group="ordered")
        async def ordered(order: tuple[str, int]) -> None: ...

        @app.subscribe(Topic("events.kept", int, history=timedelta(days=1)), group="all", start="all")
        async def everything(number: int) -> None: ...

        try:
            async with app:
                found: set[str] = set()
        except* Unsupported as group:
            found = {error.feature for error in group.exceptions if isinstance(error, Unsupported)}
        assert found == refused & {"broadcast", "patterns", "ordered", "start_all"}


def _refused(features: Features) -> set[str]:
    return {name for name in Features.__struct_fields__ if isinstance(getattr(features, name), Refusal)}
