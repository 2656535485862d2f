"""Everything that works on the engine's loop, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from random import Random

from ...clock import Clock
from ...engine import Lost, Outgoing, Source, SourceKind, Status, Stored, Subscription
from ...errors import AccessDenied, ConfigError, Disconnected
from ..buffer import Buffer
from ..sideloop import SideLoop
from .address import Address
from .admin import Tools
from .catalog import Catalog
from .codec import Reader as Decoder
from .consumer import Delivering, LaneConsumer, QueueConsumer, RabbitConsumer
from .control import Control, Differs
from .declare import Declarer
from .features import MAX_BODY
from .history import History
from .ladder import BITS, RETRY_TOP, TOP, Ladder
from .lane import Lane
from .lanestate import LaneState, StateStore
from .leases import Lease, Spared
from .line import Line
from .link import DROPPED, Link
from .members import Holding, Members
from .names import Names
from .ordered import OrderedReader
from .outbound import Outbound
from .passing import PassingReader
from .publisher import Outcome, Posting, Publisher
from .reader import SourceReader
from .settling import Settling
from .stats import Holder, Statistics
from .suspects import Suspects
from .sweep import Sweeper
from .topology import Topology
from .trials import Trials
from .versions import Gates
from .waiting import Waiting

Closed = Callable[[RabbitConsumer], None]
AnyReader = SourceReader | OrderedReader | PassingReader
DEFERRED = (AccessDenied, ConfigError, Differs, Disconnected, *DROPPED)


class Works:
    """The parts of an open engine. Made and used on the engine's loop, but for `problems` and `consumer`."""

    def __init__(self, address: Address, names: Names, clock: Clock, random: Random) -> None:
        self._names = names
        self._clock = clock
        self._random = random
        self._publishing = Line("publishing", address, random)
        self._consuming = Line("consuming", address, random)
        self._publishing.others, self._consuming.others = [self._consuming], [self._publishing]
        self.control = Control(self._consuming)
        self.publisher = Publisher(self._publishing, self.control)
        token = f"{random.getrandbits(64):016x}"
        self.catalog = Catalog(names, self._consuming, self.control, self.publisher, token)
        self._retries = Ladder("retry", RETRY_TOP, BITS, names, self.control)
        self._delays = Ladder("delay", TOP, 0, names, self.control)
        self.outbound = Outbound(names, self.catalog, self._retries, self._delays, clock.now, MAX_BODY)
        self._topology = Topology(names, self.control)
        self._waiting = Waiting(clock.now)
        self._spared = Spared()
        self._gates = Gates("unknown", nack_is_free=False, dead_limit=None)
        self._trials = Trials()
        self._readers: dict[str, list[Holder]] = {}
        self._troubled: list[AnyReader] = []
        topics = self._decoder(None)
        self.members = Members(
            names.members, names.instance(random), self.control, self.publisher, topics, self._holdings,
            self._spared.lost,
            lambda: clock.now().timestamp(),
        )  # fmt: skip
        self._sweeper = Sweeper(
            self._consuming, self.control, self.outbound, self.publisher,
            lambda source: names.dead(names.queue(source)), self._decoder_of,
        )  # fmt: skip
        self._statistics = Statistics(
            names, self.catalog, self.control, self._retries, self._waiting, self._sweeper, self.members, self._holders
        )
        history = History(names, self._consuming, self.catalog, self.outbound, self.publisher, topics, clock.now)
        self.declarer = Declarer(self._topology, self.catalog, lambda: self._gates, history.fill)
        self.tools = Tools(
            names, self.catalog, self.control, self._topology, self._statistics, self._sweeper, history,
            lambda: self._gates,
        )  # fmt: skip

    async def open(self, deadline: float) -> None:
        """Connects and checks.

        Raises:
            Disconnected: Not by the deadline (of the loop's clock).
            AccessDenied: The broker refuses the user or the virtual host.
            ConfigError: Its version is not supported.
        """
        opening = [asyncio.ensure_future(line.open(deadline)) for line in (self._consuming, self._publishing)]
        try:
            await asyncio.gather(*opening)
        except BaseException:
            for task in opening:
                task.cancel()
            await asyncio.wait(opening)
            raise
        await self._consuming.add(self)
        await self._consuming.add(self.control)
        await self._publishing.add(self.publisher)
        await self._consuming.add(self.catalog)
        await self._consuming.add(self.members)

    async def close(self, wait: float) -> None:
        """Ends everything; what is being published has so many seconds to be confirmed."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait
        # What is being published may grow meanwhile, by settlements of other sources: no event could say that it ends.
        while not self.publisher.idle and loop.time() < end and self._publishing.link is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await self.members.close()
        await self._sweeper.close()
        await self.publisher.close()
        self._trials.close()
        await asyncio.gather(self._consuming.close(), self._publishing.close())

    async def up(self, link: Link) -> None:
        """A new connection: another server, perhaps."""
        self._gates = link.gates
        self.outbound.frame_max = link.frame_max
        self._retries.forget()
        self._delays.forget()
        self._topology.forget()
        self._trials.connected()

    def down(self) -> None:
        """Nothing is known to be there."""

    def problems(self) -> Sequence[str]:
        """What is wrong now. From any thread."""
        found = [line.problem for line in (self._publishing, self._consuming)]
        found += [reader.problem for reader in list(self._troubled)]
        return list(dict.fromkeys(problem for problem in found if problem is not None))

    # -- publishing -------------------------------------------------------------------------------------------------

    async def publish(self, batch: Sequence[Outgoing], wait: float) -> Sequence[Outcome]:
        """Stores messages; the outcome of each, within so many seconds."""
        deadline = asyncio.get_running_loop().time() + wait
        delayed = [outgoing for outgoing in batch if outgoing.not_before is not None]
        if not delayed or len(delayed) == len(batch):
            return await self._store(batch, deadline)
        # What can be written at once does not wait until it is known where the rest can wait.
        late = asyncio.create_task(self._store(delayed, deadline))
        try:
            direct = iter(await self._store([each for each in batch if each.not_before is None], deadline))
            rest = iter(await late)
        finally:
            late.cancel()
        return [next(direct if outgoing.not_before is None else rest) for outgoing in batch]

    async def _store(self, batch: Sequence[Outgoing], deadline: float) -> Sequence[Outcome]:
        made = [await self._made(outgoing, deadline) for outgoing in batch]
        postings = [posting for posting in made if isinstance(posting, Posting)]
        outcomes = iter(await self.publisher.store(postings, deadline))
        return [next(outcomes) if isinstance(each, Posting) else each for each in made]

    async def _made(self, outgoing: Outgoing, deadline: float) -> Posting | Outcome:
        """A posting; what waits on the broker may have to ask whether its steps are there."""
        try:
            if outgoing.not_before is None:  # Asks nothing, and a timeout a message costs 1 us.
                return await self.outbound.posting(outgoing)
            async with asyncio.timeout_at(deadline):
                return await self.outbound.posting(outgoing)
        except TimeoutError:
            why = self._consuming.problem or "the broker did not say in time whether delayed messages can wait there"
            return Stored.NO, Disconnected(why)
        except DEFERRED as error:
            return Stored.NO, error

    # -- consuming --------------------------------------------------------------------------------------------------

    async def consumer(self, side: SideLoop, subscription: Subscription, lost: Lost, closed: Closed) -> RabbitConsumer:
        """A consumer, for the loop this is called on: the application's."""
        buffer = Buffer()
        delivering = Delivering(buffer, lost)
        kind = subscription.source.kind
        if kind is SourceKind.INBOX or kind is SourceKind.BROADCAST:
            passing, address = await side.run(self._passing(subscription, delivering))
            return RabbitConsumer(
                side, buffer, _Ending(self, str(subscription.source), passing), passing.settle, closed, address
            )
        name = str(subscription.source)
        if subscription.source.ordered:
            ordered = await side.run(self._ordered(subscription, delivering))
            lanes = LaneConsumer(side, buffer, _Ending(self, name, ordered), ordered.carry_out, closed)
            lanes.begin(ordered, delivering)
            delivering.consumer = lanes
            await side.run(self._begin(name, ordered))
            return lanes
        reader = await side.run(self._reader(subscription, delivering))
        consumer = QueueConsumer(side, buffer, _Ending(self, name, reader), reader.carry_out, closed)
        consumer.begin(reader, delivering)
        delivering.consumer = consumer
        return consumer

    async def _passing(self, subscription: Subscription, delivering: Delivering) -> tuple[PassingReader, str | None]:
        source = subscription.source
        inbox = source.kind is SourceKind.INBOX
        queue = self._names.inbox(self._random) if inbox else self._names.instance(self._random)
        binding = None if inbox else (self._names.topics, self._names.routing_key(source.channel))
        decoder = self._decoder(None)
        reader = PassingReader(queue, binding, subscription.window, decoder, delivering.give, self.control)
        await reader.make()
        await self._consuming.add(reader)
        await reader.opened()
        self._troubled.append(reader)
        return reader, queue if inbox else None

    async def _settling(self, subscription: Subscription) -> Settling:
        """For a source, which is made if it is not there."""
        source = subscription.source
        if str(source) not in self.catalog.sources:
            await self.declarer.apply(
                [c for c in await self.declarer.plan([], [subscription]) if c.status is Status.CREATE]
            )
        queue = self._names.queue(source)
        return Settling(
            str(source),
            queue,
            self._names.trial(queue),
            self.outbound,
            self.publisher,
            self._waiting,
            self._spared,
            self._clock.now,
            self._random,
        )

    async def _ordered(self, subscription: Subscription, delivering: Delivering) -> OrderedReader:
        source = subscription.source
        settling = await self._settling(subscription)
        queue = self._names.queue(source)
        record = self.catalog.sources[str(source)]
        decoder = self._decoder_of(source)

        def make(ready: Callable[[], None], ended: Callable[[Lane, Sequence[Lease], str], None]) -> Sequence[Lane]:
            def store(lane: int) -> Callable[[Callable[[], LaneState]], StateStore]:
                kept = self._names.state(queue, lane)
                return lambda state: StateStore(kept, self.control, self.outbound, self.publisher, state)

            return [
                Lane(
                    lane,
                    self._names.lane(queue, lane),
                    store(lane),
                    decoder,
                    self.control,
                    self._spared,
                    self.members.spared,
                    self._trials,
                    self._clock.now,
                    ready,
                    ended,
                )
                for lane in range(record.lanes)
            ]

        return OrderedReader(
            source=str(source),
            make=make,
            members=self.members,
            settling=settling,
            publisher=self.publisher,
            window=subscription.window,
            hold=_seconds(subscription.max_hold),
            give=delivering.give,
            tell=delivering.tell,
            recall=delivering.recall,
            wanted=delivering.is_wanted,
            remake=lambda: self.declarer.remake(source),
        )

    async def _begin(self, source: str, reader: OrderedReader) -> None:
        self._readers.setdefault(source, []).append(reader)
        self._troubled.append(reader)
        await self.members.start()
        await self._consuming.add(reader)
        await reader.join()

    async def _reader(self, subscription: Subscription, delivering: Delivering) -> SourceReader:
        source = subscription.source
        settling = await self._settling(subscription)
        queue = self._names.queue(source)
        decoder = self._decoder_of(source)

        def suspects(reader: SourceReader) -> Suspects:
            return Suspects(
                queue=self._names.trial(queue),
                decoder=decoder,
                settling=settling,
                trials=self._trials,
                spared=self._spared,
                lost=self.members.spared,
                counted=reader.counted,
                wanted=delivering.is_wanted,
                give=reader.give,
                over=reader.lose,
                control=self.control,
            )

        reader = SourceReader(
            source=str(source),
            queue=queue,
            decoder=decoder,
            settling=settling,
            spared=self._spared,
            suspects=suspects,
            window=subscription.window,
            hold=_seconds(subscription.max_hold),
            give=delivering.give,
            tell=delivering.tell,
            control=self.control,
            remake=lambda: self.declarer.remake(source),
        )
        self._readers.setdefault(str(source), []).append(reader)
        self._troubled.append(reader)
        await self.members.start()
        await self._consuming.add(reader)
        return reader

    def forget(self, source: str, reader: AnyReader) -> None:
        """A consumer is closed."""
        self._consuming.remove(reader)
        if reader in self._troubled:
            self._troubled.remove(reader)
        known = self._readers.get(source, [])
        if not isinstance(reader, PassingReader) and reader in known:
            known.remove(reader)

    # -- parts ------------------------------------------------------------------------------------------------------

    def _decoder(self, channel: str | None) -> Decoder:
        return Decoder(self._names, channel, self._random, self._clock.now)

    def _decoder_of(self, source: Source) -> Decoder:
        return self._decoder(source.channel if source.kind is SourceKind.QUEUE else None)

    def _holders(self, source: str) -> Sequence[Holder]:
        return self._readers.get(source, [])

    async def _holdings(self) -> Mapping[str, Holding]:
        sources = {*self._readers, *self._waiting.sources}
        return await self._statistics.holdings(sorted(sources))


class _Ending:
    """Closes a reader, and forgets it."""

    def __init__(self, works: Works, source: str, reader: AnyReader) -> None:
        self._works = works
        self._source = source
        self._reader = reader

    async def stop(self) -> None:
        """Takes no more."""
        await self._reader.stop()

    async def close(self) -> None:
        """Ends."""
        await self._reader.close()
        self._works.forget(self._source, self._reader)


def _seconds(hold: timedelta | None) -> float | None:
    return None if hold is None else hold.total_seconds()
