"""One measurement in a process of its own: ``python -m bench.child NAME FOLDER SCALE BACKLOG [URL]``; prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .measure import Measurement, Setting


def find(name: str) -> Measurement:
    """A measurement. Those of a broker need its clients, so that they are imported only where they are wanted.

    Raises:
        KeyError: There is no such measurement.
    """
    if name.startswith("rabbitmq_"):
        from .rabbitmq.figures import MEASUREMENTS as ON_RABBITMQ

        return ON_RABBITMQ[name]
    from .figures import MEASUREMENTS

    return MEASUREMENTS[name]


if __name__ == "__main__":
    name, folder, scale, backlog, *url = sys.argv[1:]
    print(json.dumps(find(name)(Setting(Path(folder), float(scale), int(backlog), *url))))
