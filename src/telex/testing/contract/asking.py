"""Request and reply on this engine."""

from __future__ import annotations

import asyncio
import random

from ... import Procedure, RemoteError, RequestTimeout, Telex, UnknownChannel
from ...features import Refusal
from .kit import SEED, Kit, Suite, scenario

double = Procedure("numbers.double", int, int)


class AskContract(Suite):
    """`Telex.request` and `Telex.reply`."""

    @scenario
    async def test_a_hundred_at_once_answered_out_of_order(self, kit: Kit) -> None:
        server, client = kit.app("server"), kit.app("client")
        rng = random.Random(SEED)
        order: list[int] = []

        @server.reply(double)
        async def answer(number: int) -> int:
            await asyncio.sleep(rng.random() * 0.05)
            order.append(number)
            return 2 * number

        async with server.running(), client:
            if await self._refuses(client):
                return
            answers = await asyncio.gather(*(client.request(double, number) for number in range(100)))
        assert answers == [2 * number for number in range(100)]
        assert order != sorted(order), "they were answered one after another"

    @scenario
    async def test_two_requesters_are_never_mixed(self, kit: Kit) -> None:
        server, clients = kit.app("server"), [kit.app("client"), kit.app("client")]

        @server.reply(double)
        async def answer(number: int) -> int:
            return 2 * number

        async with server.running(), clients[0], clients[1]:
            if await self._refuses(clients[0]):
                return
            asked = [(index, number) for number in range(50) for index in (0, 1)]
            answers = await asyncio.gather(*(clients[i].request(double, 100 * i + n) for i, n in asked))
        assert answers == [2 * (100 * index + number) for index, number in asked]

    @scenario
    async def test_an_exception_is_the_answer(self, kit: Kit) -> None:
        server, runs = kit.app("server"), 0

        @server.reply(double)
        async def answer(number: int) -> int:
            nonlocal runs
            runs += 1
            raise ValueError("no doubles today")

        async with server.running():
            if await self._refuses(server):
                return
            (failure,) = await asyncio.gather(server.request(double, 1), return_exceptions=True)
            assert isinstance(failure, RemoteError), failure
            assert (failure.type, failure.text) == ("ValueError", "no doubles today")
            assert await server.dead_letters().count() == 0
        assert runs == 1, "a request has one attempt"

    @scenario
    async def test_a_late_answer_is_dropped(self, kit: Kit) -> None:
        server, slow = kit.app("server"), asyncio.Event()

        @server.reply(double)
        async def answer(number: int) -> int:
            if number == 1:
                await slow.wait()
            return 2 * number

        async with server.running():
            if await self._refuses(server):
                return
            await self._times_out(server, 1, 0.3)
            slow.set()
            await asyncio.sleep(0.05)
            assert await server.request(double, 2) == 4

    @scenario
    async def test_nobody_answers(self, kit: Kit) -> None:
        """The request expires, and nobody runs it later."""
        server, client, ran = kit.app("server"), kit.app("client"), list[int]()

        @server.reply(double)
        async def answer(number: int) -> int:
            ran.append(number)
            return 2 * number

        async with client:
            if await self._refuses(client):
                return
            async with server:
                await self._times_out(client, 1, 0.2)
                await server.run(until_idle=True)
        assert ran == []

    @scenario
    async def test_an_unknown_procedure(self, kit: Kit) -> None:
        async with kit.app() as app:
            try:
                await app.request("no.such.procedure", 1)
            except UnknownChannel:
                return
        raise AssertionError("UnknownChannel was not raised")

    @scenario
    async def test_many_requests_under_way_wait_for_no_other(self, kit: Kit) -> None:
        server, gate = kit.app("server"), asyncio.Event()

        @server.reply(double)
        async def answer(number: int) -> int:
            if number < 50:
                await gate.wait()
            return 2 * number

        async with server.running():
            if await self._refuses(server):
                return
            blocked = [asyncio.ensure_future(server.request(double, number)) for number in range(50)]
            assert await asyncio.gather(*(server.request(double, n) for n in range(50, 80))) == list(range(100, 160, 2))
            gate.set()
            assert await asyncio.gather(*blocked) == list(range(0, 100, 2))

    async def _refuses(self, app: Telex) -> bool:
        return isinstance(app.features.requests, Refusal)

    async def _times_out(self, app: Telex, number: int, timeout: float) -> None:
        try:
            await app.request(double, number, timeout=timeout)
        except RequestTimeout:
            return
        raise AssertionError("RequestTimeout was not raised")
