"""`telex run`: stopping, processes, reloading, and what the health endpoint says."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from telex.cli.board import FRESH, SILENCE, Board
from telex.cli.prometheus import page
from telex.cli.supervisor import STEADY
from telex.cli.vitals import Report
from telex.engine import SourceStats

from .shell import PATIENCE, Shell, children

Got = tuple[int, str]


def get(port: int, path: str, method: str = "GET") -> Got:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def until(port: int, path: str, status: int) -> Got:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        got = get(port, path)
        if got[0] == status:
            return got
        time.sleep(0.1)
    raise AssertionError(f"{path} never answered {status}, last {got}")


def answered(port: int, path: str) -> Got:
    """What is answered at last, by a server that may turn away whoever comes too early."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return get(port, path)
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def listening(process: subprocess.Popen[str]) -> int:
    """The port that the worker says it listens on."""
    assert process.stderr is not None
    while line := process.stderr.readline():
        if found := re.search(r"health and metrics on http://127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise AssertionError("no address")


def metrics(port: int) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(get(port, "/metrics")[1]):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


# -- stopping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_drains(telex: Shell, number: signal.Signals, processes: int) -> None:
    telex("send", "slow", "1.5")
    with telex.running("run", "--processes", str(processes), "--only", "slow") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        process.send_signal(number)
        assert process.stdout.readline() == "ends\n"
        assert process.wait(30) == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_in_a_terminal_drains_and_twice_ends_at_once(telex: Shell, processes: int) -> None:
    """A terminal sends Ctrl-C to every process of its foreground, which must not count as twice."""
    telex("send", "slow", "2")
    with telex.terminal("run", "--processes", str(processes)) as terminal:
        terminal.until("begins")
        terminal.type("\x03")
        assert terminal.end() == 0
        assert "ends\r\n" in terminal.shown
        assert "told twice" not in terminal.shown
    telex("send", "slow", "30")
    with telex.terminal("run", "--processes", str(processes)) as terminal:
        terminal.until("begins")
        terminal.type("\x03")
        terminal.until("takes nothing new")
        terminal.type("\x03")
        begun = time.monotonic()
        assert terminal.end() == 0
        assert time.monotonic() - begun < 15
        assert "told twice" in terminal.shown


def test_told_twice_is_heard_by_a_worker_that_had_no_time_to_listen(telex: Shell) -> None:
    telex("send", "slow", "30")
    with telex.running("run", "--processes", "2", "--only", "slow") as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "begins\n"
        workers = children(supervisor.pid, 2)
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        for number in (signal.SIGTERM, signal.SIGINT):  # The same one twice could be heard as one.
            supervisor.send_signal(number)
            time.sleep(0.5)
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
        begun = time.monotonic()
        assert supervisor.wait(30) == 0
        assert time.monotonic() - begun < 15


def test_a_terminal_that_goes_away_drains(telex: Shell) -> None:
    telex("send", "slow", "1")
    with telex.terminal("run", "--processes", "2") as terminal:
        terminal.until("begins")
        terminal.hang_up()
        assert terminal.process.wait(30) == 0
    row = json.loads(telex("status", "slow", "--json").stdout)
    assert (row["ready"], row["retrying"], row["leased"], row["dead"]) == (0, 0, 0, 0)


# -- processes ---------------------------------------------------------------------------------------------------------


def test_several_processes_and_a_killed_one_comes_back(telex: Shell) -> None:
    with telex.running("run", "shop:app", "--processes", "2") as supervisor:
        first = children(supervisor.pid, 2)
        os.kill(first[0], signal.SIGKILL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and set(children(supervisor.pid, 2)) == set(first):
            time.sleep(0.1)
        assert set(children(supervisor.pid, 2)) != set(first)
        supervisor.send_signal(signal.SIGTERM)
        _, said = supervisor.communicate(timeout=30)
        assert supervisor.returncode == 0
    assert "ended with signal SIGKILL; starting it again" in said


def test_a_worker_that_cannot_start_again_ends_no_other(telex: Shell) -> None:
    program = telex.folder / "shop.py"
    good = program.read_text()
    with telex.terminal("run", "--processes", "2") as terminal:
        first = children(terminal.process.pid, 2)
        time.sleep(STEADY + 0.5)
        program.write_text("import nothing_like_this\n")
        os.kill(first[0], signal.SIGKILL)
        terminal.until("ended with exit code 2; starting it again")
        assert children(terminal.process.pid, 1)[0] == first[1]
        program.write_text(good)
        terminal.shown = ""
        terminal.until("shop runs")
        terminal.type("\x03")
        assert terminal.end() == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_log_is_json_when_asked_for(telex: Shell, processes: str) -> None:
    telex("send", "emails", '"bad"', "--id", "mine")
    said = telex("run", "--json", "--processes", processes, "--until-idle", "--health", "0").stderr
    records = [json.loads(line) for line in said.splitlines()]
    assert all({"time", "level", "logger", "text"} <= record.keys() for record in records)
    (dead,) = [record for record in records if record.get("event") == "telex.dead"]
    assert (dead["level"], dead["source"], dead["message_id"]) == ("ERROR", "emails", "mine")
    assert any(record["text"].startswith("health and metrics on http://127.0.0.1:") for record in records)


@pytest.mark.parametrize("pause", [0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6])
def test_told_to_stop_at_any_moment_it_stops(telex: Shell, pause: float) -> None:
    """Also while workers are being started."""
    with telex.running("run", "--processes", "3") as supervisor:
        time.sleep(pause)
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(30) in (0, -signal.SIGTERM)


def test_workers_end_when_what_started_them_is_killed(telex: Shell) -> None:
    with telex.running("run", "--processes", "2") as supervisor:
        workers = children(supervisor.pid, 2)
        assert supervisor.stderr is not None
        ready = 0
        while ready < 2:
            ready += "shop runs" in supervisor.stderr.readline()
        supervisor.kill()
        supervisor.wait(30)
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_several_processes_end_when_idle(telex: Shell) -> None:
    telex("send", "emails", "--lines", stdin="\n".join(f'"a{n}"' for n in range(100)))
    assert telex("run", "--processes", "2", "--until-idle").stdout.count("mail to") == 100


def test_a_worker_started_twice_shares_the_work(telex: Shell) -> None:
    telex("send", "emails", "--lines", stdin="\n".join(f'"a{n}"' for n in range(2000)))
    with telex.running("run", "--until-idle") as one, telex.running("run", "--until-idle") as other:
        out = one.communicate(timeout=60)[0] + other.communicate(timeout=60)[0]
        assert (one.returncode, other.returncode) == (0, 0)
    assert sorted(out.split()[2::3]) == sorted(f"a{n}" for n in range(2000))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "-a", "shop:app", "shop:app"), "name the application once"),
        (("run", "--reload", "--until-idle"), "leave one out"),
        (("run", "--processes", "0"), "whole number from 1"),
        (("run", "--processes", "2", "--only", "nothing"), "no handler for nothing"),
        (("run", "--health", "host"), "write PORT or HOST:PORT"),
        (("run", "--health", "70000"), "write PORT or HOST:PORT"),
        (("run", "--health", "nowhere.invalid:9000"), "cannot listen there"),
    ],
)
def test_wrong_use(telex: Shell, words: tuple[str, ...], says: str) -> None:
    assert says in telex(*words, code=2).stderr


def test_a_url_alone_has_no_handlers(telex: Shell) -> None:
    del telex.env["TELEX_APP"]
    telex.env["TELEX_URL"] = "shop.db"
    assert "has no handlers" in telex("run", code=2).stderr


# -- reloading ---------------------------------------------------------------------------------------------------------


def test_a_change_starts_again_and_a_mistake_waits(telex: Shell) -> None:
    program = telex.folder / "shop.py"
    good = program.read_text()
    with telex.terminal("run", "--reload") as terminal:
        terminal.until("shop runs")
        time.sleep(1)
        program.write_text(good.replace("mail to", "letter to"))
        terminal.until("shop.py changed, starting again")
        telex("send", "emails", '"ann"')
        terminal.until("letter to ann")
        program.write_text("import nothing_like_this\n")
        terminal.until("started again when a file changes")
        assert "importing it failed: ModuleNotFoundError" in terminal.shown
        program.write_text(good)
        telex.env["PYTHONDONTWRITEBYTECODE"] = "1"
        terminal.shown = ""
        terminal.until("shop runs")
        telex("send", "emails", '"bob"')
        terminal.until("mail to bob")
        terminal.type("\x03")
        assert terminal.end() == 0


# -- health ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
def test_the_endpoint_tells_how_it_is_and_no_bodies(telex: Shell, processes: int) -> None:
    telex("send", "emails", '"a-secret-body"')
    telex("send", "emails", '"bad-secret-body"')
    with telex.running("run", "--processes", str(processes), "--health", "0") as process:
        port = listening(process)
        assert until(port, "/ready", 200) == (200, "ready\n")
        assert get(port, "/live") == (200, "alive\n")
        assert get(port, "/live", "HEAD") == (200, "")
        assert get(port, "/nothing")[0] == 404
        assert get(port, "/live", "POST")[0] == 501
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = metrics(port)
            accepted = sum(v for k, v in found.get("telex_deliveries_total", {}).items() if k[2] == "accepted")
            if accepted == 1 and found.get("telex_dead_letters", {}).get(("emails",)) == 1:
                break
            time.sleep(0.2)
        assert accepted == 1
        assert found["telex_dead_letters"][("emails",)] == 1
        assert found["telex_ready_messages"][("emails",)] == 0
        assert sum(found["telex_handler_seconds_count"].values()) == 2
        assert set(found["telex_worker_running"]) == {(str(n + 1),) for n in range(processes)}
        assert found["telex_info"][("0.1.0", "shop", "embedded")] == 1
        for path in ("/", "/live", "/ready", "/metrics"):
            assert "secret" not in get(port, path)[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_it_listens_on_loopback_only(telex: Shell) -> None:
    with telex.running("run", "--health", "0") as process:
        port = listening(process)
        bound = {
            line.split()[1]
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
        }
        assert bound == {f"0100007F:{port:04X}"}


def test_who_drains_is_not_ready(telex: Shell) -> None:
    telex("send", "slow", "5")
    with telex.running("run", "--health", "0") as process:
        port = listening(process)
        until(port, "/ready", 200)
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        process.send_signal(signal.SIGTERM)
        assert "draining" in until(port, "/ready", 503)[1]
        assert get(port, "/live")[0] == 200
        assert process.wait(30) == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_taken_port_is_a_clear_error(telex: Shell, processes: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = telex("run", "--processes", processes, "--health", str(port), code=2)
    assert f"port {port} is taken by another process" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_clients_that_say_nothing_disturb_nobody(telex: Shell) -> None:
    with telex.running("run", "--health", "0") as process:
        port = listening(process)
        until(port, "/ready", 200)
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        assert answered(port, "/live")[0] == 200  # As soon as the server has lost its patience with them.
        for connection in silent:
            connection.close()


# -- the board, without processes --------------------------------------------------------------------------------------


def test_silence_means_stuck_and_before_that_not_ready() -> None:
    now = [100.0]
    board = Board(2, lambda: now[0])
    assert board.unready() == ["worker 1 does not run", "worker 2 does not run"]
    for worker in (0, 1):
        board.put(worker, Report(at=100.0, state="running", app="shop"))
    assert board.unready() == board.stuck() == []
    now[0] += FRESH + 1
    board.put(1, Report(at=now[0], state="running", app="shop", problems=["the disk is full"]))
    assert board.unready() == ["worker 1 gave no sign of life for 6s", "worker 2: the disk is full"]
    assert board.stuck() == []
    now[0] += SILENCE
    assert board.stuck() == [
        "worker 1 gave no sign of life for 1m06s: its event loop is blocked",
    ]
    board.down(0)
    assert board.stuck() == []
    assert 'telex_worker_ends_total{worker="1"} 1\n' in page(board)


def test_metrics_escape_what_is_in_a_name() -> None:
    board = Board(1)
    odd = 'a"b\\c\nd'
    board.put(0, Report(at=0.0, state="starting", app=odd, sources=[SourceStats(source=odd, ready=3)]))
    samples = [s for family in text_string_to_metric_families(page(board)) for s in family.samples]
    assert {s.name: s.value for s in samples if odd in s.labels.values()} == {
        "telex_info": 1,
        "telex_ready_messages": 3,
    }
