"""Prefork: the program is loaded once, then forked."""

from typing import Any

workers = 3
threads = 4
preload_app = True


def worker_exit(server: Any, worker: Any) -> None:
    """Closes the client of a worker that ends."""
    from web_flask import client

    client.close()
