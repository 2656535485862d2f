"""An application on an engine that refuses much: the embedded one, which says that it cannot."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from random import Random
from typing import Any

import msgspec

from telex import Reject, Telex, Topic
from telex.clock import Clock
from telex.engine import Admin, Decide, Engine, Source, Swept
from telex.engines import Embedded
from telex.engines.embedded.engine import EmbeddedEngine
from telex.features import Features, Refusal

REFUSALS = {
    "browse": Refusal("its queues cannot be read without taking", "subscribe a group to the topic"),
    "replay": Refusal("it keeps no history", "publish the messages again"),
    "ordered": Refusal("it keeps no order", "declare the topic without ordered=True"),
    "patterns": Refusal("it matches no words", "subscribe to each topic"),
}


class Sampling:
    """Shows a part of the dead letters only."""

    def __init__(self, whole: Admin) -> None:
        self._whole = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    async def sweep(self, source: Source, decide: Decide, after: str | None, limit: int, hold: float) -> Swept:
        swept = await self._whole.sweep(source, decide, after, limit, hold)
        if swept.moved:
            await asyncio.sleep(float(os.environ.get("SLOW", "0")))
        return msgspec.structs.replace(swept, complete=False)


class NarrowEngine(EmbeddedEngine):
    @property
    def admin(self) -> Admin:
        return Sampling(super().admin)

    @property
    def features(self) -> Features:
        held = timedelta(seconds=60)
        return msgspec.structs.replace(super().features, engine="narrow", max_hold=held, max_body=1000, **REFUSALS)


class Narrow:
    schemes = ("narrow",)

    def engine(self, url: str, *, app: str, clock: Clock, random: Random) -> Engine:
        path = url.partition("://")[2]
        return NarrowEngine(path, memory_name=None, settings=Embedded(), app=app, clock=clock, random=random)


moved = Topic("parcels.moved", dict, ordered=True, key=lambda parcel: parcel["id"])
app = Telex("shop.db", name="post", engines=[Narrow()])


@app.subscribe(moved, group="tracking")
async def track(parcel: dict) -> None: ...


@app.subscribe("parcels.*", group="audit", timeout=10)
async def audit(parcel: dict) -> None: ...


simple = Telex("narrow://shop.db", name="simple", engines=[Narrow()])


@simple.subscribe("parcels.lost", group="desk", timeout=10)
async def desk(parcel: dict) -> None:
    raise Reject("lost for good")
