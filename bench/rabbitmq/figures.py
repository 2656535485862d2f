"""The figures of RabbitMQ: what is measured, against what, and what must come out."""

from __future__ import annotations

from collections.abc import Mapping

from .. import flow, requesting
from ..figure import Figure, take
from ..measure import Measurement
from . import ours, peers, raw

GROUP = "rabbitmq"
MEASUREMENTS: Mapping[str, Measurement] = {
    "rabbitmq_raw_publish_100": raw.publish_100,
    "rabbitmq_publish_100": ours.publish_100,
    "rabbitmq_aio_pika_publish_100": peers.aio_pika_publish_100,
    "rabbitmq_faststream_publish_100": peers.faststream_publish_100,
    "rabbitmq_raw_publish_1000": raw.publish_1000,
    "rabbitmq_publish_1000": ours.publish_1000,
    "rabbitmq_publish_many": ours.publish_many,
    "rabbitmq_aio_pika_publish_1000": peers.aio_pika_publish_1000,
    "rabbitmq_faststream_publish_1000": peers.faststream_publish_1000,
    "rabbitmq_celery_publish": peers.celery_publish,
    "rabbitmq_dramatiq_publish": peers.dramatiq_publish,
    "rabbitmq_raw_consume": raw.consume,
    "rabbitmq_consume": ours.consume,
    "rabbitmq_aio_pika_consume": peers.aio_pika_consume,
    "rabbitmq_faststream_consume": peers.faststream_consume,
    "rabbitmq_celery_consume": peers.celery_consume,
    "rabbitmq_dramatiq_consume": peers.dramatiq_consume,
    "rabbitmq_consume_lanes": ours.consume_lanes,
    "rabbitmq_flow": flow.one_process,
    "rabbitmq_at_once": requesting.at_once,
    "rabbitmq_in_flight": requesting.in_flight,
    "rabbitmq_retries": ours.retries,
    "rabbitmq_beside": ours.beside,
}
"""By name; each runs in a process and a virtual host of its own."""


def _plain(title: str, name: str) -> Figure:
    return Figure(GROUP, title, "/s", (name,), take(name))


def _against(title: str, name: str, other: str, against: str, least: float) -> Figure:
    return Figure(GROUP, title, "/s", (name, other), take(name), take(other), against, least)


def _publishing(number: str) -> tuple[Figure, ...]:
    name, raw_name = f"rabbitmq_publish_{number}", f"rabbitmq_raw_publish_{number}"
    faststream = f"rabbitmq_faststream_publish_{number}"
    return (
        _plain(f"publish, {number} in flight: raw aiormq", raw_name),
        _plain("  aio-pika", f"rabbitmq_aio_pika_publish_{number}"),
        _plain("  FastStream", faststream),
        _against("  Telex", name, raw_name, "raw", 0.85),
        _against("  Telex", name, faststream, "FastStream", 2.5),
        Figure(GROUP, "  Telex, processor time a message", "us", (name,), take(name, "cpu")),
    )


FIGURES: tuple[Figure, ...] = (
    *_publishing("100"),
    *_publishing("1000"),
    _plain("  Telex, publish_many", "rabbitmq_publish_many"),
    _plain("publish, one after another: Celery", "rabbitmq_celery_publish"),
    _plain("  Dramatiq", "rabbitmq_dramatiq_publish"),
    _plain("consume, acknowledged: raw aiormq", "rabbitmq_raw_consume"),
    _plain("  aio-pika", "rabbitmq_aio_pika_consume"),
    _plain("  FastStream", "rabbitmq_faststream_consume"),
    _plain("  Celery, eight threads", "rabbitmq_celery_consume"),
    _plain("  Dramatiq, eight threads", "rabbitmq_dramatiq_consume"),
    _against("  Telex", "rabbitmq_consume", "rabbitmq_raw_consume", "raw", 0.8),
    _against("  Telex", "rabbitmq_consume", "rabbitmq_faststream_consume", "FastStream", 4),
    Figure(
        GROUP, "  Telex, processor time a message", "us", ("rabbitmq_consume",), take("rabbitmq_consume", "cpu")
    ),
    _against("  Telex, 16 lanes, ordered", "rabbitmq_consume_lanes", "rabbitmq_consume", "unordered", 0.7),
    _plain("publish, handle, settle; one process", "rabbitmq_flow"),
    Figure(
        GROUP, "100 requests at once, 100 ms handler", "ms", ("rabbitmq_at_once",),
        take("rabbitmq_at_once", "seconds", 1e3), most=150,
    ),
    _plain("requests, 200 in flight, two processes", "rabbitmq_in_flight"),
    Figure(GROUP, "failing once, retry after 1 s", "/s", ("rabbitmq_retries",), take("rabbitmq_retries"), least=1000),
    Figure(
        GROUP, "  by which a retry came early, most", "ms", ("rabbitmq_retries",),
        take("rabbitmq_retries", "early", 1e3), most=0,
    ),
    Figure(
        GROUP, "  healthy ones beside 1,000 failing/s, p99", "ms", ("rabbitmq_beside",),
        take("rabbitmq_beside", "p99", 1e3), most=100,
    ),
    Figure(
        GROUP, "  healthy ones alone, p99", "ms", ("rabbitmq_beside",), take("rabbitmq_beside", "alone", 1e3)
    ),
)  # fmt: skip
