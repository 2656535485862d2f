"""One measurement in a process of its own: ``python -m bench.child NAME FOLDER SCALE BACKLOG``; prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .figures import MEASUREMENTS
from .measure import Setting

if __name__ == "__main__":
    name, folder, scale, backlog = sys.argv[1:]
    print(json.dumps(MEASUREMENTS[name](Setting(Path(folder), float(scale), int(backlog)))))
