"""The shop: one application for every command."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .shell import Shell

APP = r"""
import asyncio
import contextlib
import sys

from telex import Procedure, Queue, Reject, Retry, Telex, Topic

emails = Queue("emails", str)
slow = Queue("slow", float)
placed = Topic("orders.placed", dict)
double = Procedure("double", int, int)
app = Telex("shop.db", name="shop")


@app.receive(emails, retry=Retry(attempts=1))
def send_email(to: str) -> None:
    if to.startswith("bad"):
        raise TimeoutError("mail server")
    sys.stdout.write(f"mail to {to}\n")  # Threads do not come between the parts of one write.
    sys.stdout.flush()


@app.receive(slow)
async def crawl(seconds: float) -> None:
    print("begins", flush=True)
    await asyncio.sleep(seconds)
    with contextlib.suppress(OSError):  # The terminal may be gone.
        print("ends", flush=True)


@app.subscribe(placed, group="billing")
async def bill(order: dict) -> None:
    raise Reject("no money")


@app.reply(double)
async def twice(n: int) -> int:
    if n < 0:
        raise ValueError("negative")
    return 2 * n
"""


@pytest.fixture(autouse=True, scope="session")
def hears_hangups() -> Iterator[None]:
    """Commands inherit what is ignored, and all that ``nohup`` starts ignores this."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def telex(tmp_path: Path) -> Shell:
    (tmp_path / "shop.py").write_text(APP)
    return Shell(tmp_path)


@pytest.fixture
def narrow(telex: Shell) -> Shell:
    """An application whose engine refuses much, in a profile."""
    shutil.copy(Path(__file__).with_name("narrow.py"), telex.folder)
    (telex.folder / "telex.toml").write_text('[profiles.narrow]\napp = "narrow:app"\nurl = "narrow://shop.db"\n')
    return telex
