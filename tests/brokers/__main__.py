"""``python -m tests.brokers COMMAND…``: runs a command beside a RabbitMQ node of its own; ends with its exit code.

For the command, TELEX_URL names an empty virtual host of the node, and TELEX_RESTART a shell command that kills the
node (SIGKILL) and returns when it takes connections again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from .rabbitmq import Node


def main(command: list[str]) -> int:
    """Runs it."""
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    asked, ended = threading.Event(), threading.Event()
    signal.signal(signal.SIGUSR1, lambda number, frame: asked.set())
    with Node() as node, node.place() as url:
        mark = node.folder / "restarted"
        restart = f"rm -f {mark}; kill -USR1 {os.getpid()}; until test -e {mark}; do sleep 0.1; done"

        def serve() -> None:
            while not ended.is_set():
                if asked.wait(0.1):
                    asked.clear()
                    node.kill()
                    node.start()
                    mark.touch()

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            return subprocess.run(command, env={**os.environ, "TELEX_URL": url, "TELEX_RESTART": restart}).returncode
        finally:
            ended.set()
            serving.join()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
