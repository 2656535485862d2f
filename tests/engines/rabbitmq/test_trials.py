"""Of all sources of a process one message is on trial at a time, the least blamed first, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from telex.engines.rabbitmq import trials
from telex.engines.rabbitmq.trials import Trials

from .process import until

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


class Room(One):
    """A court with suspects of this blame, one after the other."""

    def __init__(self, all: Trials, said: list[str], name: str, *blames: int) -> None:
        super().__init__(all, said, name, ends=True)
        self._blames = list(blames)
        self._here = False

    @property
    def is_open(self) -> bool:
        return bool(self._blames)

    async def summon(self) -> bool:
        await asyncio.sleep(0)
        if self._blames:
            self.blame = self._blames.pop(0)
            self._here = True
        return self._here

    async def dismiss(self) -> None:
        await asyncio.sleep(0)
        assert self._here
        self._here = False
        self._blames.append(self.blame)
        self._said.append(f"{self.name} dismisses")

    def begin(self) -> None:
        assert self._here
        self._here = False
        super().begin()


class Eager(One):
    """A lane that has the next innocent as soon as one has begun."""

    def begin(self) -> None:
        super().begin()
        self._all.end(self)
        asyncio.get_running_loop().call_soon(self._all.offer, self)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "SETTLING_IN", 0.05)


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
        all.end(second)  # It only waited.
        all.offer(second)
        all.end(first)
        await turns()
        assert said == ["first begins", "second begins"]
        all.end(second)
        all.offer(first)
        await turns()
        assert said == ["first begins", "second begins", "first begins"]

    use(test)


def test_the_least_blamed_begins_and_the_blamed_wait_until_all_had_time_to_show_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trials, "SETTLING_IN", 0.5)

    async def test(all: Trials, said: list[str]) -> None:
        all.connected()
        all.offer(One(all, said, "poison", 2, ends=True))
        await turns()
        assert said == []
        all.offer(One(all, said, "blamed once", 1, ends=True))
        await asyncio.sleep(0.02)
        all.offer(One(all, said, "innocent", 0, ends=True))
        await until(lambda: len(said) == 3)
        assert said == ["innocent begins", "blamed once begins", "poison begins"]

    use(test)


def test_an_innocent_does_not_wait() -> None:
    async def test(all: Trials, said: list[str]) -> None:
        all.connected()
        all.offer(One(all, said, "innocent"))
        await turns()
        assert said == ["innocent begins"]

    use(test)


def test_courts_and_lanes_take_turns() -> None:
    async def test(all: Trials, said: list[str]) -> None:
        all.join(Room(all, said, "room", 0, 0))
        gone = Room(all, said, "gone", 0)
        all.join(gone)
        all.leave(gone)
        for name in ("one", "two"):
            all.offer(One(all, said, name, ends=True))
        await turns(30)
        assert sorted(said) == ["one begins", "room begins", "room begins", "two begins"]
        assert said[0][:3] != said[1][:3] or said[1][:3] != said[2][:3]

    use(test)


def test_every_court_has_its_turn_though_lanes_always_offer_innocents() -> None:
    async def test(all: Trials, said: list[str]) -> None:
        for name in ("first court", "second court"):
            all.join(Room(all, said, name, *[0] * 20))
        for name in ("first lane", "second lane"):
            all.offer(Eager(all, said, name))
        await turns(500)
        all.close()
        assert {said[:40].count(f"{name} begins") for name in ("first court", "second court")} == {10}

    use(test)


def test_who_was_blamed_is_dismissed_while_there_is_an_innocent() -> None:
    async def test(all: Trials, said: list[str]) -> None:
        all.join(Room(all, said, "guilty", 1))
        all.join(Room(all, said, "other", 0))
        all.look()
        await turns(30)
        begun = [what for what in said if what.endswith("begins")]
        assert begun == ["other begins", "guilty begins"]

    use(test)


def test_of_the_blamed_the_least_blamed_begins_and_the_other_is_dismissed() -> None:
    async def test(all: Trials, said: list[str]) -> None:
        all.join(Room(all, said, "room", 2))
        all.offer(One(all, said, "lane", 1, ends=True))
        await turns(30)
        assert said == ["room dismisses", "lane begins", "room begins"]

    use(test)


def test_one_that_is_blamed_too_early_is_dismissed_until_somebody_looks_again() -> None:
    async def test(all: Trials, said: list[str]) -> None:
        all.connected()
        all.join(Room(all, said, "room", 1))
        all.look()
        await turns(30)
        assert said == ["room dismisses"]
        await asyncio.sleep(0.06)
        all.look()
        await turns(30)
        assert said == ["room dismisses", "room begins"]

    use(test)
