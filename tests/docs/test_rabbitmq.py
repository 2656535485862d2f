"""The page about RabbitMQ says what is so: its program runs, its names, limits and rights are those of the broker."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from telex import AccessDenied, Delivery, Procedure, Queue, Reject, Retry, Telex, Topic
from telex.engines import RabbitMQ

from ..brokers.rabbitmq import shared
from .features import features_of, table, written

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "engines" / "rabbitmq.md"
SHARED = {"telex", "telex.due", "telex.stray", "telex.catalog", "telex.members"}


@pytest.fixture
def vhost() -> Iterator[str]:
    with shared().vhost() as name:
        yield name


def example() -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 1
    return str(blocks[0])


def declare_example(vhost: str, folder: Path) -> None:
    program = (
        example()
        + "\n\nimport asyncio\n\nasync def main() -> None:\n    async with app:\n        pass\n\nasyncio.run(main())\n"
    )
    (folder / "example.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=folder,
        env={**os.environ, "TELEX_URL": shared().url(vhost)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_the_example_creates_what_the_picture_shows(vhost: str, tmp_path: Path) -> None:
    declare_example(vhost, tmp_path)
    queues = {queue["name"]: queue for queue in shared().queues(vhost)}
    exchanges = {
        exchange["name"]
        for exchange in shared().management.call("GET", f"/exchanges/{vhost}")
        if exchange["name"] and not exchange["name"].startswith("amq.")
    }
    picture = PAGE.read_text().split("```")[3]
    shown = set(re.findall(r"\[([^\[\]]+)\]", picture)) | {
        f"orders.placed/billing:{lane}.state" for lane in re.findall(r"…:(\d)\.state", picture)
    }
    assert set(queues) - SHARED == shown
    assert exchanges - SHARED == {"orders.placed/billing", "orders.placed/billing:rest"}
    assert exchanges & SHARED == SHARED - {"telex.catalog"}
    assert {queue["type"] for name, queue in queues.items() if name != "telex.catalog"} == {"quorum"}
    assert queues["telex.catalog"]["type"] == "stream"
    assert all(queue["durable"] for queue in queues.values())


def test_every_name_on_the_broker_is_explained(vhost: str, tmp_path: Path) -> None:
    declare_example(vhost, tmp_path)
    page = PAGE.read_text()
    for name in SHARED:
        assert f"`{name}`" in page


def test_the_limits_are_those_of_the_engine(vhost: str) -> None:
    features = asyncio.run(features_of(shared().url(vhost)))
    assert written(PAGE.read_text()) == table(features), (
        "the page is out of date: python -m tests.brokers sh -c 'python -m tests.docs.features "
        "docs/engines/rabbitmq.md $TELEX_URL'"
    )


# -- permissions -------------------------------------------------------------------------------------------------------

PLACED = Topic("orders.placed", int, ordered=True, lanes=2, key=str)
WORK = Queue("work", int)
DOUBLE = Procedure("double", int, int)


def rights(who: str) -> tuple[str, str, str]:
    """The regular expressions of a line of the table of permissions."""
    (line,) = (line for line in PAGE.read_text().splitlines() if line.startswith(f"| {who}"))
    configure, write, read = (text.replace("\0", "|") for text in re.findall(r"`(\^.*?)`", line.replace("\\|", "\0")))
    return configure, write, read


def application(url: str, *, verify: bool) -> Telex:
    app = Telex(
        url,
        name="shop",
        engines=[RabbitMQ(prefix="prod.")],
        topology="verify" if verify else "declare",
        publish_timeout=5,
    )

    @app.subscribe(PLACED, group="billing", retry=Retry(attempts=2, delay=0.1))
    async def bill(number: int) -> None:
        if number == 1:
            raise ValueError("never")

    @app.receive(WORK, retry=Retry(delay=0.1))
    async def work(number: int, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise ValueError("once")
        if number == 2:
            raise Reject("not wanted")

    @app.reply(DOUBLE)
    async def double(number: int) -> int:
        return 2 * number

    return app


async def use(app: Telex) -> None:
    """All an application does."""
    async with app:
        await app.publish_many(PLACED, [1, 2, 3])
        await app.send_many(WORK, [1, 2, 3])
        async with app.running():
            assert await app.request(DOUBLE, 21, timeout=10) == 42
        await app.run(until_idle=True)
        assert await app.dead_letters().count() == 2
        assert await app.dead_letters(WORK).redrive() == 1
        await app.run(until_idle=True)


def test_the_rights_in_the_table_are_enough(vhost: str) -> None:
    broker = shared()
    for name, who, verify in (("declares", "declares", False), ("uses", "with `topology", True)):
        configure, write, read = rights(who)
        url = broker.user(f"{name}-{vhost}", "secret", vhost, configure=configure, write=write, read=read)
        asyncio.run(use(application(url, verify=verify)))
        asyncio.run(_empty(application(broker.url(vhost), verify=True)))
        broker.management.call("DELETE", f"/users/{name}-{vhost}")


async def _empty(app: Telex) -> None:
    async with app:
        await app.dead_letters().discard()


def test_without_rights_the_start_says_so_and_shows_no_secret(vhost: str) -> None:
    broker = shared()
    url = broker.user(f"nobody-{vhost}", "s3cret-passw0rd", vhost)
    with pytest.raises((AccessDenied, ExceptionGroup)) as caught:
        asyncio.run(use(application(url, verify=False)))
    assert "s3cret-passw0rd" not in repr(caught.value) + str(caught.value)
    assert "access" in str(caught.value).lower() or "refuse" in str(caught.value).lower()
    broker.management.call("DELETE", f"/users/nobody-{vhost}")
