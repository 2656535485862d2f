"""Telling the other services about an order, once its transaction has committed."""

from telex.sync import Client

import shop
from .models import Order

client = Client(shop.app)


def announce(order: Order) -> None:
    """Publishes the order, then notes that it did.

    Killed in between, it publishes again, with the same id.
    """
    body = shop.Order(order.number, order.customer, order.total)
    client.publish(shop.placed, body, id=f"order-{order.number}-placed")
    Order.objects.filter(pk=order.pk).update(announced=True)
