"""The machine, in one line: figures without it mean nothing."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import apsw


def describe(folder: Path) -> str:
    """Processor, cores, memory, system, Python, SQLite, loop, and how busy the machine was."""
    load = os.getloadavg()[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; {platform.system()} {platform.release()}; "
        f"Python {sys.version.split()[0]}, SQLite {apsw.sqlite_lib_version()}, {_loop()}; "
        f"disk {_file_system(folder)}; load before the run {load:.1f}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _loop() -> str:
    try:
        return f"uvloop {version('uvloop')}"
    except PackageNotFoundError:
        return "asyncio"


def _file_system(folder: Path) -> str:
    """The type of the file system of a folder, where the system says."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    target = str(folder.resolve())
    best = max((m for m in mounts if target.startswith(m[1])), key=lambda m: len(m[1]), default=None)
    return best[2] if best else "unknown"
