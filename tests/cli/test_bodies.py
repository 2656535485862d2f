"""What is typed becomes what the channel carries, whatever its type."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

APP = """
from dataclasses import dataclass

import msgspec
import pydantic
from telex import Procedure, Queue, Telex, Topic


@dataclass
class Email:
    to: str
    copies: int = 1


class Shipped(msgspec.Struct, tag=True):
    id: str


class Cancelled(msgspec.Struct, tag=True):
    id: str


class Item(pydantic.BaseModel):
    sku: str


emails = Queue("emails", Email, ordered=True, key=lambda email: email.to)
events = Topic("events", Shipped | Cancelled)
items = Queue("items", Item)
files = Queue("files", bytes)
ask = Procedure("ask", Email, Email)
app = Telex("shop.db", name="shop")


@app.receive(emails)
async def take_email(email: Email) -> None:
    print(repr(email), flush=True)


@app.subscribe(events)
async def take_event(event: Shipped | Cancelled) -> None:
    print(repr(event), flush=True)


@app.receive(items)
async def take_item(item: Item) -> None:
    print(repr(item), flush=True)


@app.receive(files)
async def take_file(content: bytes) -> None:
    print(repr(content), flush=True)


@app.receive("plain")
async def take_plain(body: dict) -> None:
    print(repr(body), flush=True)


@app.reply(ask)
async def answer(email: Email) -> Email:
    return Email(email.to.upper(), email.copies + 1)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


def telex(shop: Path, *words: str, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "telex", "-a", "shop:app", *words],
        cwd=shop,
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr.decode()
    return done


@pytest.mark.parametrize(
    ("words", "stdin", "seen"),
    [
        (("send", "emails", '{"to": "ann"}'), b"", "Email(to='ann', copies=1)"),
        (("send", "emails", "--lines"), b'{"to": "ann"}\n{"to": "bob", "copies": 2}\n', "Email(to='bob', copies=2)"),
        (("publish", "events", '{"type": "Cancelled", "id": "1"}'), b"", "Cancelled(id='1')"),
        (("send", "items", '{"sku": "x"}'), b"", "Item(sku='x')"),
        (("send", "files"), b"\x00\xffraw", "b'\\x00\\xffraw'"),
        (("send", "plain", '{"a": 1}'), b"", "{'a': 1}"),
    ],
    ids=["dataclass", "lines", "union", "pydantic", "bytes", "plain name"],
)
def test_every_type_can_be_typed(shop: Path, words: tuple[str, ...], stdin: bytes, seen: str) -> None:
    telex(shop, *words, stdin=stdin)
    assert seen in telex(shop, "run", "--until-idle").stdout.decode()


def test_a_request_is_typed_and_its_answer_printed(shop: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "telex", "run", "shop:app"],
        cwd=shop,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        done = telex(shop, "request", "ask", '{"to": "ann"}', "--timeout", "20s")
        assert done.stdout == b'{"to":"ANN","copies":2}\n'
    finally:
        worker.terminate()
        assert worker.wait(30) == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("send", "emails", "{}"), "the body cannot be sent to emails: this channel takes Email"),
        (("publish", "events", '{"type": "Lost"}'), "this channel takes shop.Shipped | shop.Cancelled"),
        (("request", "ask", "5"), "this channel takes Email"),
    ],
)
def test_what_does_not_fit_is_said(shop: Path, words: tuple[str, ...], text: str) -> None:
    done = telex(shop, *words, code=1)
    assert text in done.stderr.decode()
    assert done.stdout == b""


def test_lines_before_the_wrong_one_are_stored(shop: Path) -> None:
    done = telex(shop, "send", "emails", "--lines", stdin=b'{"to": "ann"}\n{"no": 1}\n{"to": "bob"}\n', code=1)
    assert len(done.stdout.splitlines()) == 1
    assert "line 2 cannot be sent to emails" in done.stderr.decode()
