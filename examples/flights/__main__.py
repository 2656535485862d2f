"""``python -m examples.flights``: the demonstration. Exits with 1 if any total differs from the data.

The messages lie where TELEX_URL says; in a file if it says nothing. What an earlier run left there is removed first.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .data import read_flights
from .demo import tell
from .loop import run


def main() -> int:
    """Reads the data, tells the story, checks every total."""
    parser = argparse.ArgumentParser(prog="python -m examples.flights", description=__doc__)
    parser.add_argument("--first", type=int, metavar="N", help="only the first N flights (default: all 336,776)")
    parser.add_argument("--folder", type=Path, default=Path("build/flights"), help="emptied first; %(default)s")
    parser.add_argument("--restart", default="", metavar="COMMAND", help="restarts the broker on the way")
    options = parser.parse_args()
    start = time.perf_counter()
    data = read_flights()[: options.first]
    print(f"{len(data):,} flights of 2013 out of New York, read in {time.perf_counter() - start:.1f} s")
    wrong = run(tell(data, options.folder.resolve(), options.restart))
    print()
    if wrong:
        for line in wrong[:20]:
            print(f"WRONG: {line}", file=sys.stderr)
        print(f"{len(wrong)} totals differ from the data", file=sys.stderr)
        return 1
    print(f"every total agrees with the data; {time.perf_counter() - start:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
