"""Of all sources of a process one message is on trial at a time, the least blamed first, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from telex.engines.rabbitmq import trials
from telex.engines.rabbitmq.trials import Suspect, Trials

Test = Callable[[Trials, "list[str]"], Awaitable[None]]


class One:
    """A suspect that notes when it begins."""

    def __init__(self, all: Trials, said: list[str], name: str, blame: int = 0, *, ends: bool = False) -> None:
        self._all = all
        self._said = said
        self.name = name
        self.blame = blame
        self.ends = ends

    def begin(self) -> None:
        self._said.append(f"{self.name} begins")
        if self.ends:
            self._all.end(self)


class Room:
    """A court that notes what it is told."""

    def __init__(self, said: list[str], then: Callable[[], None] = lambda: None) -> None:
        self._said = said
        self._then = then

    async def adjourn(self, chosen: Suspect) -> None:
        await asyncio.sleep(0)
        assert isinstance(chosen, One)
        self._said.append(f"adjourned for {chosen.name}")
        self._then()

    async def resume(self) -> None:
        await asyncio.sleep(0)
        self._said.append("resumed")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "SETTLING_IN", 0.05)
    monkeypatch.setattr(trials, "SHOWING", 0.0)


def use(test: Test) -> None:
    async def main() -> None:
        async with asyncio.timeout(5):
            await test(Trials(), [])

    asyncio.run(main())


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_the_next_begins_when_the_one_before_it_has_ended() -> None:
    async def test(all: Trials, said: list[str]) -> None:
        first, second = One(all, said, "first"), One(all, said, "second")
        all.offer(first)
        all.offer(second)
        all.offer(second)  # It waits already.
        await turns()
        assert said == ["first begins"]
        assert not all.is_free
        all.end(second)  # It only waited.
        all.offer(second)
        all.end(first)
        await turns()
        assert said == ["first begins", "second begins"]
        all.end(second)
        await turns()
        assert all.is_free

    use(test)


def test_the_least_blamed_begins_and_the_blamed_wait_until_all_had_time_to_show_theirs() -> None:
    async def test(all: Trials, said: list[str]) -> None:
        all.connected()
        all.offer(One(all, said, "poison", 2, ends=True))
        await turns()
        assert said == []
        all.offer(One(all, said, "blamed once", 1, ends=True))
        await asyncio.sleep(0.02)
        all.offer(One(all, said, "innocent", 0, ends=True))
        await asyncio.sleep(0.2)
        assert said == ["innocent begins", "blamed once begins", "poison begins"]

    use(test)


def test_an_innocent_does_not_wait() -> None:
    async def test(all: Trials, said: list[str]) -> None:
        all.connected()
        all.offer(One(all, said, "innocent"))
        await turns()
        assert said == ["innocent begins"]

    use(test)


def test_the_others_have_put_theirs_back_before_one_begins() -> None:
    async def test(all: Trials, said: list[str]) -> None:
        all.join(Room(said))
        gone = Room(said)
        all.join(gone)
        all.leave(gone)
        all.offer(One(all, said, "one", ends=True))
        await turns()
        assert said == ["adjourned for one", "one begins", "resumed"]

    use(test)


def test_one_that_is_lost_while_the_others_put_theirs_back_never_begins() -> None:
    async def test(all: Trials, said: list[str]) -> None:
        one = One(all, said, "one")
        all.join(Room(said, lambda: all.end(one)))
        all.offer(one)
        await turns()
        assert said == ["adjourned for one", "resumed"]
        assert all.is_free

    use(test)
