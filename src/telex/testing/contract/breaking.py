"""Broker faults: killed, stopped, unreachable, half open, short of memory, tampered with; nothing is lost by any."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from unittest.mock import patch

from ... import session
from ...app import Telex
from ...channels import Queue
from ...delivery.context import Delivery
from ...engine import Source, SourceKind
from ...errors import AccessDenied, Disconnected, PublishFailed, PublishUncertain
from ...features import Refusal
from ...policy import Reject
from ..proxy import Proxy
from .broker import FaultKit, FaultSuite, hurts
from .traffic import Traffic

WORK = Queue("work", int)
MANY = 10_000
PUBLISHERS = 100
SOURCE = Source("work", SourceKind.QUEUE)
FLAPS = 8
SOON = 8.0
"""Seconds within which an application that opens must have its broker, where that shall not be long."""
STUCK = 45.0
"""Seconds without progress after which what has not come is taken to be lost."""


class BrokerFaultContract(FaultSuite):
    """What an application is promised when its broker fails."""

    @hurts("kill", "start")
    async def test_killed_at_one_and_two_thirds_nothing_is_lost(self, kit: FaultKit) -> None:
        async with _traffic(kit, publishers=PUBLISHERS, each=MANY // PUBLISHERS) as (app, traffic):
            for third in (1, 2):
                await kit.until("a third", traffic.has_stored(third * MANY // 3))
                traffic.fault("kill")
                await kit.do(kit.broker.kill)
                await kit.do(kit.broker.start)
                traffic.heal("kill")
            await _finish(kit, app, traffic)
            report = await traffic.judge(app, faults=["kill"], acknowledged=MANY)
            assert report.handled >= MANY * 3 // 2

    @hurts("stop", "start")
    async def test_shut_down_and_started_again_under_load(self, kit: FaultKit) -> None:
        async with _traffic(kit, publishers=40, each=50) as (app, traffic):
            await kit.until("a third", lambda: traffic.acknowledged >= 600)
            traffic.fault("stop")
            await kit.do(kit.broker.stop)
            await kit.do(kit.broker.start)
            traffic.heal("stop")
            await _finish(kit, app, traffic)
            await traffic.judge(app, faults=["stop"], acknowledged=2000)

    @hurts()
    async def test_three_resets_in_three_seconds(self, kit: FaultKit) -> None:
        proxy = kit.proxy()
        async with _traffic(kit, proxy, publishers=100, each=100, pace=0.05) as (app, traffic):
            await kit.until("traffic", lambda: traffic.acknowledged >= 500)
            for _ in range(3):
                await kit.until("something in hand", lambda: traffic.in_hand > 0 and proxy.open > 0)
                traffic.fault("reset")
                assert proxy.reset() > 0
                traffic.heal("reset")
                await asyncio.sleep(1)
            await _finish(kit, app, traffic)
            await traffic.judge(app, faults=["reset"], acknowledged=MANY)

    @hurts()
    async def test_a_half_open_connection_is_noticed(self, kit: FaultKit) -> None:
        """Packets vanish; after a while new connections work, and those that were open never do again."""
        proxy = kit.proxy()
        async with _traffic(kit, proxy, publishers=40, each=50) as (app, traffic):
            await kit.until("a third", lambda: traffic.acknowledged >= 600)
            traffic.fault("drop")
            assert proxy.drop() > 0
            await asyncio.sleep(2)
            proxy.heal()
            traffic.heal("drop")
            stored, handled = traffic.acknowledged, len(traffic.handled)
            await kit.until("publishing goes on", lambda: traffic.acknowledged > stored, kit.broker.notices + 20)
            await kit.until("consuming goes on", lambda: len(traffic.handled) > handled, kit.broker.notices + 10)
            await _finish(kit, app, traffic)
            await traffic.judge(app, faults=["drop"], acknowledged=2000, liveness=kit.broker.notices + 30)

    @hurts("block")
    async def test_an_alarm_pauses_publishing_and_is_reported(self, kit: FaultKit) -> None:
        """What was stored is handled meanwhile; publishes wait, are bounded by their timeout, and go on at the end."""
        handled = set[int]()
        app = kit.app(publish_timeout=60)
        hasty = kit.app("hasty", publish_timeout=2)

        @app.receive(WORK)
        async def handle(number: int) -> None:
            await asyncio.sleep(0.002)
            handled.add(number)

        async with app, hasty:
            await app.send_many(WORK, range(1000))
            async with app.running():
                await kit.do(kit.broker.block)
                waiting = [asyncio.ensure_future(app.send(WORK, number)) for number in range(1000, 1100)]
                await kit.until("consuming goes on", lambda: len(handled) >= 1000)
                await kit.until("the alarm is reported", lambda: _reported(app))
                begun = time.monotonic()
                errors = [type(await _refused(hasty, number)) for number in (1, 2)]
                assert set(errors) <= {PublishFailed, PublishUncertain}
                assert 3 < time.monotonic() - begun < 10, "a publish is bounded by its timeout"
                assert not any(future.done() for future in waiting), "a publish returned while nothing was stored"
                await kit.do(kit.broker.unblock)
                await asyncio.gather(*waiting)
                await kit.until("all is handled", lambda: len(handled) == 1100)
                await kit.until("nothing is reported", lambda: _unreported(app))

    @hurts("kill", "start")
    async def test_a_publish_during_an_outage_waits_up_to_its_timeout(self, kit: FaultKit) -> None:
        patient, hasty = kit.app(publish_timeout=200), kit.app("hasty", publish_timeout=2)
        handled = list[int]()

        @patient.receive(WORK)
        async def handle(number: int) -> None:
            handled.append(number)

        async with patient, hasty:
            await patient.send(WORK, 0)
            await hasty.send(WORK, 1)
            await kit.declared()
            await kit.do(kit.broker.kill)
            await kit.until("the outage is reported", lambda: _reported(patient))
            begun = time.monotonic()
            waiting = [asyncio.ensure_future(patient.send(WORK, number)) for number in range(2, 200)]
            error = await _refused(hasty, 1000)
            assert type(error) is PublishFailed, f"never written, so certainly stored nowhere; it raised {error!r}"
            assert 1.5 < time.monotonic() - begun < 6
            assert not any(future.done() for future in waiting)
            await kit.do(kit.broker.start)
            await asyncio.gather(*waiting)
            await patient.run(until_idle=True)
            await kit.until("nothing is reported", lambda: _unreported(patient))
        assert sorted(set(handled)) == list(range(200))

    @hurts("delete")
    async def test_a_source_that_is_deleted_hurts_no_other(self, kit: FaultKit) -> None:
        """It is reported or made again; whatever `send` acknowledges afterwards is handled, and others go on."""
        app, other = kit.app(publish_timeout=10), Queue("other", int)
        handled = dict[str, set[int]](work=set(), other=set())

        @app.receive(WORK)
        async def work(number: int) -> None:
            handled["work"].add(number)

        @app.receive(other)
        async def receive(number: int) -> None:
            handled["other"].add(number)

        async with app, app.running():
            await app.send_many(WORK, range(10))
            await kit.until("all is handled", lambda: len(handled["work"]) == 10)
            await kit.do(kit.broker.delete, SOURCE)
            stored, refused = list[int](), 0
            end = time.monotonic() + 10
            while time.monotonic() < end and len(stored) < 50:
                number = 100 + len(stored) + refused
                try:
                    await app.send(WORK, number)
                    stored.append(number)
                except (PublishFailed, PublishUncertain):
                    refused += 1
                await app.send(other, number)
                await asyncio.sleep(0.05)
            assert stored or await _reported(app), "nothing can be stored, and nobody is told"
            await kit.until("the others go on", lambda: len(handled["other"]) == len(stored) + refused)
            await kit.until(
                "what was acknowledged is handled, or the source is reported",
                lambda: _either(app, set(stored) <= handled["work"]),
            )
            print(f"\n{len(stored)} stored, {refused} refused after the deletion")

    @hurts()
    async def test_a_consumer_that_flaps_buries_nothing(self, kit: FaultKit) -> None:
        """Ten connections are lost with full windows, with handlers that get nowhere; no message dies of it."""
        proxy, app = kit.proxy(), kit.app(publish_timeout=30)
        flapping = kit.app(proxy=proxy)
        handled, slow, started = set[int](), asyncio.Event(), 0

        @flapping.receive(WORK, concurrency=50)
        async def handle(number: int, delivery: Delivery) -> None:
            nonlocal started
            started += 1
            if not slow.is_set():
                await slow.wait()
            handled.add(number)

        def past(number: int) -> Callable[[], bool]:
            return lambda: started > number and proxy.open > 0

        async with app, flapping:
            await app.send_many(WORK, range(500))
            async with flapping.running():
                for flap in range(10):
                    await kit.until(f"deliveries before flap {flap}", past(started))
                    await asyncio.sleep(0.2)
                    assert proxy.reset() > 0
                await kit.until("deliveries after the last flap", past(started))
                proxy.drop()
                slow.set()  # What is in hand has an outcome now, of which the broker never hears.
                await kit.until("an outcome", lambda: bool(handled))
                await asyncio.sleep(0.2)
                assert proxy.reset() > 0
                proxy.heal()
                await kit.until("all is handled or dead", lambda: _all(app, handled, 500))
            await flapping.run(until_idle=True)
            causes = await app.dead_letters().causes()
            assert not causes, f"died of lost connections: {causes}"

    @hurts()
    async def test_a_process_that_dies_after_its_connection_flapped_is_one_death(self, kit: FaultKit) -> None:
        """What it knew about its connections dies with it; what was in hand in all of them is not blamed for each."""
        proxy, app = kit.proxy(), kit.app()
        flapping, over = kit.app(proxy=proxy), asyncio.Event()
        started, handled = 0, set[int]()

        @flapping.receive(WORK)
        async def hang(number: int) -> None:
            nonlocal started
            started += 1
            await over.wait()

        def past(number: int) -> Callable[[], bool]:
            return lambda: started > number and proxy.open > 0

        @app.receive(WORK)
        async def handle(number: int) -> None:
            handled.add(number)

        async with app:
            await app.send(WORK, 1)
            async with flapping, flapping.running():
                for flap in range(FLAPS):
                    await kit.until(f"a delivery before flap {flap}", past(flap))
                    if flap == FLAPS - 1:
                        proxy.refuse()  # It is as good as dead: nobody hears of it any more.
                    assert proxy.reset() > 0
                async with app.running():
                    await kit.until("it is handled or dead", lambda: _all(app, handled, 1))
                over.set()
                proxy.heal()
            assert handled == {1}, f"died of lost connections: {await app.dead_letters().causes()}"

    @hurts("refuse_letters")
    async def test_a_dead_letter_that_cannot_be_written_stops_its_source_and_is_written_later(
        self, kit: FaultKit
    ) -> None:
        """The handler is not run again for it, nothing is lost, and the source says so."""
        app, runs = kit.app(), dict[int, int]()

        @app.receive(WORK, concurrency=4)
        async def handle(number: int) -> None:
            runs[number] = runs.get(number, 0) + 1
            await asyncio.sleep(0.01)
            raise Reject("not wanted")

        async with app:
            await kit.do(kit.broker.refuse_letters, SOURCE)
            await app.send_many(WORK, range(400))
            async with app.running():
                await kit.until("the source is reported", lambda: _reported(app))
                await asyncio.sleep(3)
                ran = dict(runs)
                assert len(ran) < 200, "the source went on taking messages"
                assert set(ran.values()) == {1}, "a handler ran again for a message whose letter could not be written"
                await kit.do(kit.broker.take_letters, SOURCE)
                await kit.until("all are dead", lambda: _count(app, 400))
            ids = [letter.message.id async for letter in app.dead_letters(WORK)]
            assert len(set(ids)) == 400
        assert set(runs) == set(range(400))

    @hurts("stranger")
    async def test_wrong_credentials_are_refused_at_once_and_shown_nowhere(self, kit: FaultKit) -> None:
        url, secret = kit.broker.stranger()
        said = _Said()
        root, level = logging.getLogger(), logging.getLogger().level
        root.addHandler(said)
        root.setLevel(logging.DEBUG)
        begun = time.monotonic()
        app = kit.app(url=url)
        try:
            async with app:
                raise AssertionError("the broker let a stranger in")
        except AccessDenied as error:
            text = "".join(traceback.format_exception(error)) + repr(error) + repr(app)
        finally:
            root.setLevel(level)
            root.removeHandler(said)
        assert time.monotonic() - begun < 10, "refused, and tried again"
        assert secret not in text
        assert secret not in "\n".join(said.lines)

    @hurts("kill", "start")
    async def test_nobody_there_is_said_by_the_deadline(self, kit: FaultKit) -> None:
        await kit.do(kit.broker.kill)
        app = kit.app()
        begun = time.monotonic()
        try:
            with patch.object(session, "OPEN_TIMEOUT", SOON):
                async with app:
                    raise AssertionError("it opened without a broker")
        except Disconnected as error:
            caught, took = error, time.monotonic() - begun
        finally:
            await kit.do(kit.broker.start)
        assert took < 4 * SOON
        assert not isinstance(caught, AccessDenied), "nobody was there to deny anything"
        assert str(kit.broker.port) in str(caught), f"the text names no address: {caught}"

    @hurts()
    async def test_a_slow_connection_only_makes_slow(self, kit: FaultKit) -> None:
        """50 ms each way: a publisher with many in flight still stores hundreds a second."""
        proxy = kit.proxy()
        app = kit.app(proxy=proxy)
        handled = set[int]()

        @app.receive(WORK)
        async def handle(number: int) -> None:
            handled.add(number)

        async with app:
            await app.send(WORK, 0)
            proxy.delay(0.05)
            begun = time.monotonic()
            await asyncio.gather(*(app.send(WORK, number) for number in range(1, 1000)))
            assert time.monotonic() - begun < 10
            await app.run(until_idle=True)
            proxy.delay(0)
        assert handled == set(range(1000))


@asynccontextmanager
async def _traffic(
    kit: FaultKit, proxy: Proxy | None = None, *, publishers: int, each: int, pace: float = 0
) -> AsyncIterator[tuple[Telex, Traffic]]:
    """Publishers and two workers on the broker; the first application, and the traffic."""
    async with kit.app("look") as look:
        ordered = not isinstance(look.features.ordered, Refusal)
    traffic = Traffic(kit.folder, ordered=ordered)
    kit.stack.callback(traffic.close)
    workers = [kit.app(proxy=proxy, publish_timeout=60) for _ in range(2)]
    for number, worker in enumerate(workers):
        traffic.work(worker, f"w{number}")
    publisher = kit.app("publisher", proxy=proxy, publish_timeout=60)
    async with workers[0], workers[1], publisher, workers[0].running(), workers[1].running():
        await kit.declared()
        publishing = asyncio.ensure_future(traffic.publish(publisher, "p", publishers=publishers, each=each, pace=pace))
        try:
            yield workers[0], traffic
            await publishing
        finally:
            publishing.cancel()
            await asyncio.wait([publishing])


async def _finish(kit: FaultKit, app: Telex, traffic: Traffic) -> None:
    """Waits until everything is handled and settled, or nothing moves any more: what is lost the judge will say."""
    loop = asyncio.get_running_loop()
    handled, since = len(traffic.handled), loop.time()
    while loop.time() - since < STUCK and not traffic.complete:
        await asyncio.sleep(0.05)
        if len(traffic.handled) > handled:
            handled, since = len(traffic.handled), loop.time()

    async def settled() -> bool:
        return await traffic.left(app) == 0

    if traffic.complete:
        await kit.until("everything is settled", settled)


async def _reported(app: Telex) -> bool:
    """Whether somebody who looks is told that something is wrong."""
    try:
        return bool((await app.stats()).problems)
    except Disconnected:
        return True


async def _unreported(app: Telex) -> bool:
    return not await _reported(app)


async def _either(app: Telex, well: bool) -> bool:
    return well or await _reported(app)


async def _all(app: Telex, handled: set[int], number: int) -> bool:
    return len(handled) + await app.dead_letters().count() >= number


async def _count(app: Telex, number: int) -> bool:
    return await app.dead_letters().count() == number


async def _refused(app: Telex, number: int) -> Exception:
    try:
        await app.send(WORK, number)
    except (PublishFailed, PublishUncertain) as error:
        return error
    raise AssertionError("a publish returned while nothing could be stored")


class _Said(logging.Handler):
    """All that is logged meanwhile."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {record.exc_text or ''} {record.exc_info or ''}")
