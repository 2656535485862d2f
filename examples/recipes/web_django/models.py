"""Orders as the database keeps them."""

from django.db import models


class Order(models.Model):
    number = models.CharField(max_length=40, unique=True)
    customer = models.CharField(max_length=100)
    total = models.FloatField()
    announced = models.BooleanField(default=False)
    """Whether its message was certainly published."""
