"""Placing an order."""

import json
from functools import partial

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_POST

from .announce import announce
from .models import Order


@require_POST
def create(request: HttpRequest) -> JsonResponse:
    body = json.loads(request.body)
    with transaction.atomic():
        order = Order.objects.create(number=body["id"], customer=body["customer"], total=body["total"])
        # robust: what fails is logged, and swept up later.
        transaction.on_commit(partial(announce, order), robust=True)
        if order.total <= 0:  # Found out late; the message will not leave.
            transaction.set_rollback(True)
            text = "an order needs a total above zero"
            return JsonResponse({"error": text}, status=400)
    return JsonResponse({"order": order.number}, status=201)
