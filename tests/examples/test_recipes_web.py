"""The web recipes, on real servers."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import RemoteDisconnected
from pathlib import Path

import pytest

from .kit import Shop, Site


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "shop")


def test_fastapi(shop: Shop) -> None:
    site = Site()
    with (
        shop.running("uvicorn", "web_fastapi:api", "--host", "127.0.0.1", "--port", str(site.port)) as server,
        shop.running("telex", "run", "shop:app") as worker,
    ):
        site.wait(server)
        order = {"id": "7", "customer": "ann", "total": 5}
        assert site.ask("POST", "/orders", order) == (202, {"message": "order-7-placed"})
        assert site.ask("GET", "/price/table") == (200, {"cents": 500})
        assert site.ask("GET", "/price/nothing") == (404, {"detail": "no such article"})
        worker.wait_for(lambda text: "end: mail to ann" in text)
        assert worker.stop() == 0
        assert server.stop() in (0, -15)  # uvicorn raises the signal again once it has shut down.
        assert "Traceback" not in server.text + worker.text.partition("LookupError")[0]


def test_fastapi_without_anybody_who_answers(shop: Shop) -> None:
    site = Site()
    with shop.running("uvicorn", "web_fastapi:api", "--host", "127.0.0.1", "--port", str(site.port)) as server:
        site.wait(server)
        assert site.ask("GET", "/price/table") == (504, {"detail": "the price service does not answer"})
        assert site.ask("POST", "/orders", {"id": "8", "customer": "bob", "total": 5})[0] == 202
    assert shop.status("orders.placed/billing")["orders.placed/billing"]["ready"] == 1


def test_flask_under_prefork_gunicorn(shop: Shop) -> None:
    site = Site()
    gunicorn = ("gunicorn", "--config", "gunicorn_conf.py", "--bind", site.address, "web_flask:web")
    with shop.running(*gunicorn) as server, shop.running("telex", "run", "shop:app", "--only", "quotes.price"):
        site.wait(server)
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda n: site.ask("POST", f"/remind/customer{n}"), range(120)))
            prices = list(pool.map(lambda n: site.ask("GET", f"/price/{'x' * (n + 1)}"), range(24)))
        assert {status for status, _ in answers} == {200}
        assert len({answer["id"] for _, answer in answers}) == 120
        workers = Counter(answer["worker"] for _, answer in answers)
        assert len(workers) > 1, "one worker answered all: the fork was not tried"
        assert server.process.pid not in workers
        assert prices == [(200, {"cents": 100 * (n + 1)}) for n in range(24)]
        assert site.ask("GET", "/price/nothing") == (502, {"error": "LookupError: no such article"})
        assert server.stop() == 0
        assert "Traceback" not in server.text
    assert shop.status("emails")["emails"]["ready"] == 120


def test_django_commits_and_rolls_back(shop: Shop) -> None:
    site = Site()
    django = {"DJANGO_SETTINGS_MODULE": "web_django.settings"}
    shop.run("python", "-m", "django", "migrate", "--run-syncdb", env=django)
    gunicorn = ("gunicorn", "--workers", "2", "--preload", "--bind", site.address, "web_django.wsgi")
    with shop.running(*gunicorn, env=django) as server:
        site.wait(server)
        assert site.ask("POST", "/orders", {"id": "1", "customer": "ann", "total": 5}) == (201, {"order": "1"})
        status, answer = site.ask("POST", "/orders", {"id": "2", "customer": "bob", "total": -5})
        assert (status, answer["error"]) == (400, "an order needs a total above zero")
        assert server.stop() == 0
    assert shop.status()["orders.placed/billing"]["ready"] == 1
    assert "end: mail to ann" in shop.run("telex", "run", "shop:app", "--until-idle")
    database = sqlite3.connect(shop.folder / "shop.sqlite3")
    assert database.execute("SELECT number, announced FROM web_django_order").fetchall() == [("1", 1)]
    database.close()


def test_django_sweeps_up_what_a_crash_left(shop: Shop) -> None:
    """The process dies after the commit and before the message is published."""
    site = Site()
    django = {"DJANGO_SETTINGS_MODULE": "web_django.settings"}
    shop.run("python", "-m", "django", "migrate", "--run-syncdb", env=django)
    module = shop.folder / "web_django" / "announce.py"
    whole = module.read_text()
    module.write_text(whole.replace("    client.publish(", "    import os\n\n    os._exit(9)\n    client.publish("))
    with shop.running("gunicorn", "--workers", "1", "--bind", site.address, "web_django.wsgi", env=django) as server:
        site.wait(server)
        with pytest.raises((ConnectionError, RemoteDisconnected)):
            site.ask("POST", "/orders", {"id": "9", "customer": "cleo", "total": 3})
        server.stop()
    module.write_text(whole)
    database = sqlite3.connect(shop.folder / "shop.sqlite3")
    assert database.execute("SELECT number, announced FROM web_django_order").fetchall() == [("9", 0)]
    database.close()
    assert shop.status().get("orders.placed/billing", {"ready": 0})["ready"] == 0
    assert "announced 9\n" in shop.run("python", "-m", "django", "announce", env=django)
    assert "announced" not in shop.run("python", "-m", "django", "announce", env=django)
    assert "end: mail to cleo" in shop.run("telex", "run", "shop:app", "--until-idle")


def test_what_flask_acknowledged_is_there_although_its_workers_are_killed(shop: Shop) -> None:
    site = Site()
    gunicorn = ("gunicorn", "--config", "gunicorn_conf.py", "--bind", site.address, "web_flask:web")
    acknowledged, refused = [], 0
    with shop.running(*gunicorn) as server:
        site.wait(server)
        for number in range(60):
            try:
                status, answer = site.ask("POST", f"/remind/customer{number}")
            except OSError:
                refused += 1
                continue
            assert status == 200
            acknowledged.append(answer["id"])
            if number % 20 == 10:
                os.kill(answer["worker"], signal.SIGKILL)
        assert server.stop() == 0
    assert len(acknowledged) >= 50
    stored = {row["id"] for row in shop.rows("tail", "emails", "--since", "start", "--no-follow")}
    assert set(acknowledged) <= stored
    assert len(stored) <= len(acknowledged) + refused
