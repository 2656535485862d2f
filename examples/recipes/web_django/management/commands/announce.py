"""`python -m django announce`, from cron: publishes what a crash left unpublished."""

from typing import Any

from django.core.management.base import BaseCommand

from ...announce import announce
from ...models import Order


class Command(BaseCommand):
    help = "Publishes orders that were committed and not announced."

    def handle(self, *args: Any, **options: Any) -> None:
        for order in Order.objects.filter(announced=False).order_by("pk"):
            announce(order)
            self.stdout.write(f"announced {order.number}")
