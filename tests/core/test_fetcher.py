"""How much a source keeps in stock: as much as its handlers use up quickly, and no more for what is put on trial."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from telex.delivery.fetcher import MOST, Fetcher
from telex.engine import Fetched, Settled, Settlement
from telex.message import Message

MESSAGE = Message(id="m", channel="jobs", body=b"", time=datetime(2026, 1, 1, tzinfo=UTC))


class Full:
    """A source with as many messages as anybody wants, which have been lost so many times."""

    address = None

    def __init__(self, losses: int) -> None:
        self._losses = losses
        self.asked: list[int] = []

    async def fetch(self, max: int, wait: float) -> Sequence[Fetched]:
        self.asked.append(max)
        await asyncio.sleep(0)
        return [Fetched(MESSAGE, object(), losses=self._losses) for _ in range(max)]

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Settled]:
        return [Settled.DONE] * len(batch)

    async def stop(self) -> None: ...

    async def close(self) -> None: ...


@pytest.mark.parametrize(("losses", "most"), [(0, MOST), (2, 16)], ids=["handled at once", "put on trial at once"])
def test_the_stock_grows_with_handlers_that_are_quick(losses: int, most: int) -> None:
    source = Full(losses)

    async def main() -> None:
        def used_up(batch: Sequence[Fetched]) -> None:
            for _ in batch:
                fetcher.used()

        fetcher = Fetcher(source, "jobs", 16, used_up)
        fetcher.start()
        async with asyncio.timeout(5):
            while len(source.asked) < 20:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await fetcher.stop()

    asyncio.run(main())
    assert source.asked[0] == 16
    assert max(source.asked) == most
