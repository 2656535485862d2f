"""Celery's worker: ``python -m bench.rabbitmq.celery_app URL COUNT`` handles so many tasks and prints what it measured.

Eight threads were faster here than its other pools.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from .counting import Count

QUEUE = "peer"


def make(url: str, counted: Count) -> tuple[Any, Any]:
    """An application and its task, on a quorum queue."""
    from celery import Celery  # type: ignore[import-untyped]  # it has no types
    from kombu.entity import Queue

    queue: Any = Queue
    app: Any = Celery("bench", broker=url)
    app.conf.update(
        task_queues=[queue(QUEUE, durable=True, queue_arguments={"x-queue-type": "quorum"})],
        task_default_queue=QUEUE,
        task_acks_late=True,
        task_ignore_result=True,
        broker_transport_options={"confirm_publish": True},
        worker_prefetch_multiplier=100,
        worker_send_task_events=False,
    )

    @app.task(name="bench.handle")  # type: ignore[untyped-decorator]  # as above
    def handle(message: dict[str, Any]) -> None:
        counted.one()

    return app, handle


def main(url: str, count: int) -> None:
    """Runs the worker until all is handled."""
    counted = Count(count)
    app, _ = make(url, counted)

    def watch() -> None:
        while not counted.measured:
            time.sleep(0.05)
        print(
            json.dumps(counted.measured), file=sys.__stdout__, flush=True
        )  # Celery has put a logger before the other.
        time.sleep(1)
        os.kill(os.getpid(), 15)

    threading.Thread(target=watch, daemon=True).start()
    options = ["-P", "threads", "-c", "8", "-l", "CRITICAL", "--without-gossip", "--without-mingle"]
    app.worker_main(["worker", *options, "--without-heartbeat"])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
