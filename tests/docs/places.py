"""What must be there before a page can be followed: the page for a person on call begins in the middle of trouble."""

from __future__ import annotations

import subprocess

from .blocks import BIN, Reader

SHOP = """
import os
from dataclasses import dataclass

from telex import Procedure, Queue, Reject, Retry, Telex, Topic


@dataclass
class Order:
    id: str
    customer: str


@dataclass
class Email:
    to: str


placed = Topic("orders.placed", Order, ordered=True, key=lambda order: order.customer)
emails = Queue("emails", Email)
price = Procedure("quotes.price", str, int)
app = Telex("telex.db", name="shop")


@app.receive(emails, retry=Retry(attempts=2, delay=0.05))
def send_email(email: Email) -> None:
    if email.to == "nobody":
        raise Reject("nobody is no address")
    if "MAIL_SERVER_IS_DOWN" in os.environ:
        raise TimeoutError("the mail server does not answer")


@app.subscribe(placed, group="billing")
async def bill(order: Order) -> None: ...


if "WITH_OLD" in os.environ:

    @app.subscribe(placed, group="old")
    async def old(order: Order) -> None: ...


@app.reply(price)
async def quote(sku: str) -> int:
    return 100
"""

TROUBLE = """
import asyncio

from shop import Email, Order, app, emails, placed


async def main():
    async with app:
        mails = [Email("ann"), Email("bob"), Email("cleo"), Email("nobody")]
        for number, mail in enumerate(mails):
            await app.send(emails, mail, id=f"mail-{number}")
        await app.publish_many(placed, [Order(str(n), "ann") for n in range(6)])
        await app.run(only=["emails"], until_idle=True)


asyncio.run(main())
"""


def prepare(page: str, reader: Reader) -> None:
    """Makes the place that a page takes for granted."""
    if page != "docs/operate.md":
        return
    (reader.folder / "shop.py").write_text(SHOP)
    subprocess.run(
        [str(BIN / "python"), "-c", TROUBLE],
        cwd=reader.folder,
        env={**reader.environment, "MAIL_SERVER_IS_DOWN": "1", "WITH_OLD": "1"},
        check=True,
        stderr=subprocess.DEVNULL,
        timeout=60,
    )
