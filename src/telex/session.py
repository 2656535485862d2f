"""One opening of an application: the engine, the routes, the publisher. What is gone when it closes stands here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any, Literal

from .binding import Plan, bind, own_channels, plain_names, unsupported
from .channels import Procedure, Queue, Topic
from .clock import Clock
from .codec import decoder
from .engine import Change, Channel, ChannelKind, Engine, Outgoing, SourceKind, Status, Subscription
from .errors import ConfigError, PublishFailed, UnknownChannel
from .handlers import Registration
from .ids import Ids
from .message import Message
from .names import check_channel_name
from .outbound import Composer, Route, Target, plain_route, route_to
from .publisher import Publisher
from .requests import Requests

OPEN_TIMEOUT = 30.0
HURRY = 5.0
"""Seconds for closing the engine after a cancel or a failure."""


class Session:
    """What an open application works with."""

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        own: Mapping[str, Target],
        *,
        name: str,
        verify: bool,
        clock: Clock,
        random: Random,
        publish_timeout: float,
    ) -> None:
        self.engine = engine
        self.plan = plan
        self.loop = asyncio.get_running_loop()
        self._verify = verify
        self._publish_timeout = publish_timeout
        self._own = own
        self._routes: dict[object, Route] = {}
        """Of channels that are there: planned, or declared on first use."""
        self._emission_routes: dict[object, Route] = {}
        """Of channels that handlers emit to and nobody has declared yet: no publisher may take them for declared."""
        self._answers: dict[object, Callable[[Message], Any]] = {}
        self._declaring = asyncio.Lock()
        self._undeclared: set[Channel] = set()
        """What handlers emit to and nobody has declared yet."""
        features = engine.features
        self.composer = Composer(clock, Ids(clock, random), features.max_body, features.max_delay)
        self.publisher = Publisher(engine, clock, publish_timeout)
        self.requests = Requests(engine, self.publisher, clock, name)

    # -- routes -----------------------------------------------------------------------------------------------------

    def known(self, target: object) -> Route | None:
        """The route of a channel used before."""
        return self._routes.get(target)

    async def route(self, target: object, kind: ChannelKind, within: float | None = None) -> Route:
        """The route of a channel, declared on its first use.

        Args:
            target: The channel, or its name.
            kind: What it must be.
            within: Seconds; the publish timeout if None.

        Raises:
            ConfigError: It is no channel, one of another kind, or declared differently.
            UnknownChannel: A queue or procedure known by name only does not exist, or nothing may be created.
            PublishFailed: It could not be declared in time.
        """
        limit = self._publish_timeout if within is None else within
        try:
            async with asyncio.timeout(limit), self._declaring:
                route = self._routes.get(target)
                if route is None:
                    route = await self._resolve(target, kind)
                    self._routes[target] = route
                    self._declared(route.channel)
        except TimeoutError:
            raise PublishFailed(
                f"{target} could not be declared within {limit:g} s: the store is busy or away; nothing was stored"
            ) from None
        return self._of_kind(route, kind)

    def emission_route(self, target: object, kind: ChannelKind) -> Route:
        """The route of a channel for a handler, which cannot wait here; `declare_emitted` declares it.

        Raises:
            ConfigError: It is no channel, one of another kind, or a plain name the application does not declare.
        """
        route = self._routes.get(target)
        if route is None:
            route = self._emission_routes.get(target)
        if route is None:
            route = self._emission_route(target, kind)
            routes = self._emission_routes if route.channel in self._undeclared else self._routes
            routes[target] = route
        return self._of_kind(route, kind)

    async def declare_emitted(self, emitted: Sequence[Outgoing]) -> Exception | None:
        """Declares what a handler emits to for the first time, before it leaves; why that cannot be, if it cannot.

        The failure is this handler's: others, which emit elsewhere, go on.
        """
        if not self._undeclared:
            return None
        async with self._declaring:
            for outgoing in emitted:
                channel = outgoing.to
                if not isinstance(channel, Channel) or channel not in self._undeclared:
                    continue
                try:
                    await self._declare(channel)
                except Exception as error:
                    return error
                self._declared(channel)
        return None

    def _declared(self, channel: Channel) -> None:
        """A channel is there now, also for those who named it otherwise."""
        if channel not in self._undeclared:
            return
        for target, route in list(self._emission_routes.items()):
            if route.channel == channel:
                self._routes[target] = self._emission_routes.pop(target)
        self._undeclared.discard(channel)

    def _emission_route(self, target: object, kind: ChannelKind) -> Route:
        if isinstance(target, str):
            if target in self._own:
                return route_to(self._own[target])
            if target in self.plan.channels:
                return plain_route(self.plan.channels[target])
            raise ConfigError(
                f"a handler cannot emit to {target!r}: this application does not declare it; "
                f"give the {kind.name.title()} object instead of its name"
            )
        if not isinstance(target, Topic | Queue):
            raise ConfigError(f"{target!r} is not a {kind.value}: give a {kind.name.title()}")
        route = self._of_kind(route_to(target), kind)
        if self.plan.channels.get(target.name) != route.channel:
            self._undeclared.add(route.channel)
        return route

    @staticmethod
    def _of_kind(route: Route, kind: ChannelKind) -> Route:
        if route.channel.kind is not kind:
            verb = {"topic": "publish", "queue": "send", "procedure": "request"}[route.channel.kind.value]
            raise ConfigError(f"{route.channel.name} is a {route.channel.kind.value}, not a {kind.value}: use {verb}()")
        return route

    async def _resolve(self, target: object, kind: ChannelKind) -> Route:
        if isinstance(target, str):
            return await self._resolve_name(target, kind)
        if not isinstance(target, Topic | Queue | Procedure):
            raise ConfigError(f"{target!r} is not a channel: give a Topic, Queue or Procedure, or its name")
        route = route_to(target)
        self._of_kind(route, kind)
        await self._declare(route.channel)
        return route

    async def _resolve_name(self, name: str, kind: ChannelKind) -> Route:
        check_channel_name(name)
        if name in self._own:
            return route_to(self._own[name])
        if name in self.plan.channels:
            return plain_route(self.plan.channels[name])
        (channel,) = await self.engine.lookup([name])
        if channel is not None:
            return plain_route(channel)
        if kind is not ChannelKind.TOPIC or self._verify:
            raise UnknownChannel(
                f"there is no {kind.value} {name!r}: start the application that declares it, "
                f"or give the {kind.name.title()} object instead of its name"
            )
        channel = Channel(name, kind)
        await self._declare(channel)
        return plain_route(channel)

    async def _declare(self, channel: Channel) -> None:
        if self.plan.channels.get(channel.name) == channel:
            return
        changes = await self.engine.plan([channel], [])
        check_plan(changes, verify=False)
        missing = [change for change in changes if change.status is Status.CREATE]
        if missing and self._verify:
            raise UnknownChannel(
                f"{channel.kind.value} {channel.name} does not exist and topology='verify' creates nothing: "
                "create it first with an application that declares, or write topology='declare'"
            )
        if missing:
            await self.engine.apply(missing)

    def decode_answer(self, procedure: object, reply: Message) -> Any:
        """The answer as the procedure's type.

        Raises:
            Undecodable: It does not fit.
        """
        decode = self._answers.get(procedure)
        if decode is None:
            decode = decoder(procedure.answer if isinstance(procedure, Procedure) else Any)
            self._answers[procedure] = decode
        return decode(reply)

    async def close(self, clock: Clock, timeout: float) -> None:
        """Flushes what is being published and closes the engine, also when it is cancelled or something fails."""
        wait = min(HURRY, timeout)
        try:
            try:
                await self.requests.close()
            finally:
                await self.publisher.close()
            wait = timeout
        finally:
            await self.engine.close(clock.monotonic() + wait)


async def start(
    engine: Engine,
    registrations: Sequence[Registration],
    *,
    name: str,
    topology: Literal["declare", "verify", "look"],
    clock: Clock,
    random: Random,
    publish_timeout: float,
) -> Session:
    """Opens the engine, checks everything the application asks for, and declares its channels and groups.

    With ``"look"`` it declares nothing and lets pass what the engine refuses: operators look at what there is.

    Raises:
        Disconnected: The engine is not reachable.
        ExceptionGroup: Of everything that is declared wrongly or that the engine refuses.
        ConfigError: What exists differs from what is declared.
    """
    await engine.open(clock.monotonic() + OPEN_TIMEOUT)
    try:
        names = plain_names(registrations)
        found = await engine.lookup(names) if names else ()
        known = {channel.name: channel for channel in found if channel is not None}
        plan = bind(registrations, name, known)
        if topology != "look":
            refusals = unsupported(plan, engine.features)
            if refusals:
                raise ExceptionGroup(f"the {engine.features.engine} engine cannot run this application", refusals)
            await _declare(engine, plan, topology == "verify")
        return Session(
            engine,
            plan,
            own_channels(registrations),
            name=name,
            verify=topology != "declare",
            clock=clock,
            random=random,
            publish_timeout=publish_timeout,
        )
    except BaseException:
        await engine.close(clock.monotonic() + HURRY)
        raise


async def changes_for(engine: Engine, plan: Plan) -> Sequence[Change]:
    """What declaring an application would do; only reads."""
    subscriptions = [
        Subscription(source=bound.source, start=bound.start)
        for bound in plan.bounds
        if bound.source.kind is not SourceKind.BROADCAST
    ]
    return await engine.plan(list(plan.channels.values()), subscriptions)


async def _declare(engine: Engine, plan: Plan, verify: bool) -> None:
    changes = await changes_for(engine, plan)
    check_plan(changes, verify=verify)
    create = [change for change in changes if change.status is Status.CREATE]
    if create:
        await engine.apply(create)


def check_plan(changes: Iterable[Change], *, verify: bool) -> None:
    """Refuses what cannot be declared.

    Raises:
        ExceptionGroup: Of a `ConfigError` for each thing that exists differently, or is missing with ``verify``.
    """
    errors: list[Exception] = []
    for change in changes:
        if change.status is Status.DIFFERS:
            errors.append(
                ConfigError(
                    f"{change.what} exists and differs ({change.because}): declare it as it is, or under another name"
                )
            )
        elif verify and change.status is Status.CREATE:
            errors.append(ConfigError(f"{change.what} does not exist, and topology='verify' creates nothing"))
    if errors:
        raise ExceptionGroup("the topology does not fit the application", errors)
