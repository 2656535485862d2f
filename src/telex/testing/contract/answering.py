"""Inboxes: where answers come to."""

from __future__ import annotations

from datetime import timedelta

from ...engine import Channel, ChannelKind, Consumer, Decision, Engine, Fetched, Outgoing, Source, SourceKind, Stored
from ...features import Refusal
from .kit import Kit, Suite, bodies, ids, scenario, source_of, to

INBOX = Source("contract", SourceKind.INBOX)


class InboxContract(Suite):
    """`SourceKind.INBOX` and messages to its address."""

    @scenario
    async def test_an_answer_comes_to_its_inbox_alone(self, kit: Kit) -> None:
        """Two requesters are never mixed."""
        first, second, worker = await kit.engine(), await kit.engine(), await kit.engine()
        if isinstance(first.features.requests, Refusal):
            return
        inboxes = [await kit.consumer(engine, INBOX) for engine in (first, second)]
        addresses = [inbox.address for inbox in inboxes]
        assert None not in addresses
        assert len(set(addresses)) == 2
        for number, address in enumerate(addresses):
            assert address is not None
            answer = kit.message("quotes.price", b"%d" % number, correlation_id=f"c{number}")
            await kit.store(worker, [to(address, answer)])
        for number, inbox in enumerate(inboxes):
            (fetched,) = await kit.take(inbox, 1)
            assert (fetched.message.body, fetched.message.correlation_id) == (b"%d" % number, f"c{number}")
            await kit.accept(inbox, fetched)
            await kit.nothing(inbox)

    @scenario
    async def test_a_request_carries_its_way_back(self, kit: Kit) -> None:
        requester, worker = await kit.engine(), await kit.engine()
        if isinstance(requester.features.requests, Refusal):
            return
        procedure = await self._procedure(kit, requester)
        inbox = await kit.consumer(requester, INBOX)
        expires = kit.clock.now() + timedelta(seconds=5)
        await kit.publish(requester, procedure, b"ask", reply_to=inbox.address, correlation_id="c1", expires=expires)
        consumer = await kit.consumer(worker, source_of(procedure))
        fetched = await kit.take_one(consumer)
        assert fetched.message.reply_to == inbox.address
        assert fetched.message.expires == expires
        assert fetched.message.reply_to is not None
        answer = to(fetched.message.reply_to, kit.message("quotes.price", b"answer", correlation_id="c1"))
        await _accept_with(kit, consumer, fetched, answer)
        assert bodies(await kit.take(inbox, 1)) == [b"answer"]

    @scenario
    async def test_many_answers(self, kit: Kit) -> None:
        requester, worker = await kit.engine(), await kit.engine()
        if isinstance(requester.features.requests, Refusal):
            return
        inbox = await kit.consumer(requester, INBOX)
        assert inbox.address is not None
        batch = [to(inbox.address, kit.message("quotes.price", b"%d" % n)) for n in range(300)]
        await kit.store(worker, batch)
        taken = await kit.take(inbox, 300)
        assert sorted(ids(taken)) == sorted(outgoing.message.id for outgoing in batch)
        await kit.accept(inbox, taken)
        await kit.nothing(inbox)

    @scenario
    async def test_a_foreign_address_is_refused(self, kit: Kit) -> None:
        """An address from a message must not send data anywhere else."""
        engine = await kit.engine()
        if isinstance(engine.features.requests, Refusal):
            return
        for address in ("", "work", "http://example.org/", "../other", "amqp://example.org/q", "' OR 1=1 --"):
            answers = await kit.answers(engine, [to(address, kit.message("quotes.price"))])
            assert answers == [Stored.NO], (address, answers)

    @scenario
    async def test_an_answer_to_an_inbox_that_is_gone_disturbs_nobody(self, kit: Kit) -> None:
        requester, worker = await kit.engine(), await kit.engine()
        if isinstance(requester.features.requests, Refusal):
            return
        procedure = await self._procedure(kit, worker)
        inbox = await kit.consumer(requester, INBOX)
        address = inbox.address
        assert address is not None
        await kit.close(requester)
        await kit.publish(worker, procedure, b"ask", reply_to=address)
        consumer = await kit.consumer(worker, source_of(procedure))
        fetched = await kit.take_one(consumer)
        await _accept_with(kit, consumer, fetched, to(address, kit.message("quotes.price", b"late")))
        await kit.nothing(consumer)

    async def _procedure(self, kit: Kit, engine: Engine) -> Channel:
        procedure = Channel("quotes.price", ChannelKind.PROCEDURE)
        await kit.declare(engine, [procedure], [source_of(procedure)])
        return procedure


async def _accept_with(kit: Kit, consumer: Consumer, fetched: Fetched, answer: Outgoing) -> None:
    """Accepts a request; its answer leaves with the settlement."""
    await kit.settle(consumer, fetched, Decision.ACCEPT, emit=[answer])
