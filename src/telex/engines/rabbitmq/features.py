"""What RabbitMQ can do, and what it cannot."""

from __future__ import annotations

from datetime import timedelta

from ...features import Features, Refusal, Support
from .admin import NO_BROWSING
from .declare import ENGINE
from .intake import PREFETCH
from .reader import LONGEST_HOLD

MAX_BODY = 16 * 1024 * 1024 - 16 * 1024
"""16 KiB below the broker's own limit from 4.0 on (``max_message_size``, 16 MiB by default)."""
MAX_DELAY = timedelta(days=366)

FEATURES = Features(
    engine=ENGINE,
    durable=True,
    settle_confirmed=False,
    pipelined=True,
    atomic=False,
    groups=Support.NATIVE,
    patterns=Support.NATIVE,
    broadcast=Support.NATIVE,
    ordered=Support.EMULATED,
    delay=Support.EMULATED,
    requests=Support.NATIVE,
    replay=Support.EMULATED,
    start_all=Support.EMULATED,
    browse=Refusal(*NO_BROWSING),
    max_body=MAX_BODY,
    max_delay=MAX_DELAY,
    max_hold=timedelta(seconds=LONGEST_HOLD),
    hold_window=PREFETCH,
    retention=None,
)
