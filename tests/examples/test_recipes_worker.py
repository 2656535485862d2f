"""The recipes for jobs and workers: cron, systemd, a container. Each command is run as it stands there."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from .kit import BIN, RECIPES, Shop, Site

MAILS = 6


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "shop")


MYPY = """
[mypy]
strict = True
plugins = mypy_django_plugin.main
[mypy.plugins.django-stubs]
django_settings_module = web_django.settings
"""


def test_types(tmp_path: Path) -> None:
    files = [str(path.relative_to(RECIPES)) for path in sorted(RECIPES.rglob("*.py"))]
    assert len(files) >= 10
    settings = tmp_path / "mypy.ini"
    settings.write_text(MYPY)
    command = [str(BIN / "mypy"), "--config-file", str(settings), "--cache-dir", str(tmp_path / "cache"), *files]
    done = subprocess.run(command, cwd=RECIPES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# -- cron -------------------------------------------------------------------------------------------------------------


def crontab(shop: Shop) -> tuple[dict[str, str], list[str]]:
    """The environment and the commands of the crontab, in this shop's folder."""
    environment, commands = {}, []
    for line in (shop.folder / "crontab").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if match := re.fullmatch(r"([A-Z_]+)=(.*)", line):
            environment[match[1]] = match[2]
            continue
        fields = line.split(None, 5)
        assert all(re.fullmatch(r"[\d*/,-]+", field) for field in fields[:5]), line
        commands.append(fields[5].replace("/srv/shop", str(shop.folder)))
    assert environment["TELEX_URL"] == "/var/lib/shop/telex.db"
    assert environment["PATH"].startswith("/srv/shop/.venv/bin:")
    return environment, commands


def test_cron_reminds_once_however_often_it_runs(shop: Shop) -> None:
    _, (nightly, _) = crontab(shop)
    first, second = shop.run("sh", "-c", nightly), shop.run("sh", "-c", nightly)
    assert sorted(re.findall("^reminded .*", first, re.MULTILINE)) == ["reminded ann", "reminded bob", "reminded cleo"]
    assert "reminded" not in second


def test_cron_says_what_failed(shop: Shop) -> None:
    _, (nightly, _) = crontab(shop)
    program = shop.folder / "nightly.py"
    text = program.read_text().replace("delay=5", "delay=0.1")
    program.write_text(text.replace('print(f"reminded {email.to}", flush=True)', 'raise OSError("no mail")'))
    assert "3 reminders failed: telex dead list reminders" in shop.run("sh", "-c", nightly, code=1)
    assert "OSError" in shop.run("telex", "-a", "nightly:app", "dead", "list", "reminders")


def test_cron_works_a_queue_off_and_ends(shop: Shop) -> None:
    _, (_, worker) = crontab(shop)
    send_mails(shop)
    with shop.running("sh", "-c", worker) as one, shop.running("sh", "-c", worker) as two:
        assert one.process.wait(60) == two.process.wait(60) == 0
        ends = (one.text + two.text).count("end: mail")
    assert ends == MAILS
    assert shop.status()["emails"]["ready"] == 0


# -- systemd ----------------------------------------------------------------------------------------------------------


def unit(shop: Shop) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=False)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(shop.folder / "worker" / "shop-worker.service")
    return parser["Service"]


def test_systemd_accepts_the_unit(shop: Shop, tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:  # No systemd here (macOS, a bare container): the parsing below still judges it.
        assert unit(shop)["Type"] == "exec"
        return
    place = tmp_path / "shop-worker.service"
    text = (shop.folder / "worker" / "shop-worker.service").read_text()
    place.write_text(text.replace("/srv/shop/.venv/bin", str(BIN)).replace("User=shop", "User=root"))
    done = subprocess.run([verify, "verify", "--man=no", str(place)], capture_output=True, text=True, check=False)
    about = [line for line in done.stderr.splitlines() if "shop-worker" in line]
    assert about == []
    assert done.returncode == 0, done.stderr
    place.write_text(place.read_text().replace("KillMode=mixed", "KilMode=mixed"))
    done = subprocess.run([verify, "verify", "--man=no", str(place)], capture_output=True, text=True, check=False)
    assert "KilMode" in done.stderr


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_systemd_stops_by_draining(shop: Shop) -> None:
    service = unit(shop)
    command = service["ExecStart"].replace("/srv/shop/.venv/bin", str(BIN)).split()
    grace = seconds(command[command.index("--grace") + 1])
    assert grace < seconds(service["TimeoutStopSec"]), "systemd would kill it while it drains"
    assert service["KillMode"] == "mixed", "the workers would get SIGTERM twice, which ends them at once"
    assert "KillSignal" not in service, "SIGTERM is the default"
    drains(shop, command)


# -- container --------------------------------------------------------------------------------------------------------


def containerfile(shop: Shop) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (shop.folder / "worker" / "Containerfile").read_text().splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            found.setdefault(word, []).append(rest)
    return found


def test_the_container_stops_by_draining(shop: Shop) -> None:
    lines = containerfile(shop)
    assert lines["STOPSIGNAL"] == ["SIGTERM"]
    command = json.loads(lines["CMD"][-1])  # The list form: a shell in between would keep the signal for itself.
    assert seconds(command[command.index("--grace") + 1]) < 10, "docker and podman kill after 10 s"
    assert f"TELEX_URL={lines['VOLUME'][0]}/telex.db" in lines["ENV"][0], "the store must lie on the volume"
    for copied in lines["COPY"]:
        assert (shop.folder / copied.split()[0]).exists()
    address = command[command.index("--health") + 1]
    assert address == f"0.0.0.0:{lines['EXPOSE'][0]}", "probes come from outside of the container"
    site = Site()
    drains(shop, [site.address if word == address else word for word in command], site)


# -- draining ---------------------------------------------------------------------------------------------------------


def send_mails(shop: Shop) -> None:
    bodies = "\n".join(json.dumps({"to": f"customer{n}", "about": "the sale"}) for n in range(MAILS))
    shop.run("sh", "-c", f"echo '{bodies}' | telex -a shop:app send emails --lines")


def drains(shop: Shop, command: list[str], health: Site | None = None) -> None:
    """Stops the worker in a handler: what began is finished, the rest is still there, nothing is done twice."""
    slow = shop.folder / "shop.py"
    slow.write_text(slow.read_text().replace("time.sleep(0.2)", "time.sleep(1.5)"))
    send_mails(shop)
    with shop.running(*command) as worker:
        worker.wait_for(lambda text: "begin: mail" in text)
        if health is not None:
            assert [health.ask("GET", path)[0] for path in ("/live", "/ready", "/metrics")] == [200, 200, 200]
        began = time.monotonic()
        assert worker.stop() == 0, worker.text
        assert time.monotonic() - began > 0.3, "it did not wait for the handler"
        text = worker.text
    begun = re.findall(r"begin: mail to (\w+)", text)
    assert 0 < len(begun) < MAILS
    assert sorted(re.findall(r"end: mail to (\w+)", text)) == sorted(begun)
    standing = shop.status("emails")["emails"]
    assert standing["ready"] == MAILS - len(begun)
    assert standing["leased"] == standing["dead"] == 0
    rest = shop.run("telex", "run", "shop:app", "--until-idle")
    assert sorted([*begun, *re.findall(r"end: mail to (\w+)", rest)]) == [f"customer{n}" for n in range(MAILS)]
