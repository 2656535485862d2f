"""The shop: its channels, its handlers, its application."""

import time
from dataclasses import dataclass

from telex import Delivery, Procedure, Queue, Reject, Telex, Topic


@dataclass
class Order:
    id: str
    customer: str
    total: float


@dataclass
class Email:
    to: str
    about: str


@dataclass
class QuoteRequest:
    sku: str


@dataclass
class Price:
    cents: int


placed = Topic("orders.placed", Order, ordered=True, key=lambda order: order.customer)
emails = Queue("emails", Email)
price = Procedure("quotes.price", QuoteRequest, Price)

app = Telex(name="shop")  # Where messages live is in TELEX_URL.


@app.subscribe(placed, group="billing")
async def bill(order: Order, delivery: Delivery) -> None:
    if order.total <= 0:
        raise Reject("an order needs a total above zero")
    # Leaves only if this handler succeeds.
    delivery.send(emails, Email(order.customer, f"the bill of order {order.id}"))


@app.receive(emails, concurrency=1, timeout=30)
def send_email(email: Email) -> None:
    print(f"begin: mail to {email.to} about {email.about}", flush=True)
    time.sleep(0.2)  # A mail server takes its time.
    print(f"end: mail to {email.to}", flush=True)


@app.reply(price)
async def quote(request: QuoteRequest) -> Price:
    if request.sku == "nothing":
        raise LookupError("no such article")
    return Price(cents=100 * len(request.sku))
