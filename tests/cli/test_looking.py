"""Commands that look: tail, status, topology, replay, doctor, engines. They create nothing and take nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

from telex.cli import status
from telex.cli.engines import CAPABILITIES, LIMITS, PROMISES
from telex.cli.output import Failure
from telex.engine import SourceStats
from telex.features import Features

from .shell import PATIENCE, Shell


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def opened(pid: int, path: Path) -> None:
    """Returns once a process has opened a file."""
    deadline = time.monotonic() + PATIENCE
    while str(path) not in {os.path.realpath(link) for link in Path(f"/proc/{pid}/fd").iterdir()}:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- tail --------------------------------------------------------------------------------------------------------------


def test_tail_shows_what_comes_and_takes_nothing(telex: Shell) -> None:
    telex("send", "emails", '"old"')
    with telex.running("tail", "emails", "--count", "3", "--json") as process:
        opened(process.pid, telex.folder / "shop.db")
        sent = telex("send", "emails", "--lines", stdin='"a"\n"b"\n"c"\n"d"\n').stdout.split()
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
    assert [(row["id"], row["body"]) for row in lines(out)] == list(zip(sent[:3], "abc", strict=True))
    (row,) = lines(telex("status", "emails", "--json").stdout)
    assert row["ready"] == 5


def test_tail_of_the_past(telex: Shell) -> None:
    many = 2500  # More than one page.
    telex("publish", "orders.placed", "--lines", stdin="\n".join(f'{{"id": {n}}}' for n in range(many)))
    telex("publish", "orders.placed", '{"id": "mine"}', "--key", "ann", "--header", "tenant=7")
    words = ("tail", "orders.placed", "--no-follow", "--json")
    rows = lines(telex(*words, "--since", "start").stdout)
    assert [row["body"] for row in rows] == [{"id": n} for n in range(many)] + [{"id": "mine"}]
    (mine,) = lines(telex(*words, "--since", "-1h", "--key", "ann").stdout)
    assert (mine["key"], mine["headers"], mine["content_type"]) == ("ann", {"tenant": "7"}, "application/json")
    assert telex(*words, "--since", "start", "--count", "0").stdout == ""
    assert telex(*words).stdout == ""
    assert re.fullmatch(
        r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \S+  ann  \{"id":"mine"\}\n',
        telex("tail", "orders.placed", "--since", "-1h", "--key", "ann", "--count", "1").stdout,
    )


def test_tail_ends_when_the_reader_leaves_and_with_ctrl_c(telex: Shell) -> None:
    telex("send", "emails", "--lines", stdin="\n".join(f'"{n}"' for n in range(100)))
    command = f"{sys.executable} -m telex tail emails --since start | head -3"
    done = subprocess.run(
        ["sh", "-c", command], cwd=telex.folder, env=telex.env, capture_output=True, text=True, timeout=20, check=False
    )
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == ""
    with telex.running("tail", "emails", "--since", "start") as process:
        assert process.stdout is not None
        assert process.stdout.readline()  # It listens to signals by now.
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_tail_where_nothing_can_be_browsed(narrow: Shell) -> None:
    narrow("topology", "apply")
    said = narrow("-p", "narrow", "tail", "orders.placed", code=4).stderr
    assert "its queues cannot be read without taking. Instead: subscribe a group to the topic" in said


def test_tail_of_nothing(telex: Shell) -> None:
    telex("topology", "apply")
    assert "no channel 'nowhere': there are double, emails" in telex("tail", "nowhere", code=2).stderr
    assert "channel name 'orders.*'" in telex("tail", "orders.*", code=2).stderr


# -- status ------------------------------------------------------------------------------------------------------------


def test_status_and_its_limits(telex: Shell) -> None:
    assert "there are no sources yet" in telex("status").stdout
    telex("send", "emails", "--lines", stdin='"a"\n"b"\n"c"\n')
    head, *rows = telex("status").stdout.splitlines()
    assert head.split() == ["SOURCE", "READY", "RETRYING", "DELAYED", "LEASED", "DEAD", "OLDEST", "CONSUMERS"]
    assert [row.split()[0] for row in rows] == ["double", "emails", "orders.placed/billing", "slow"]
    telex("status", "--max-ready", "3", "--max-dead", "0", "--max-age", "1h")
    assert "emails: 3 ready, more than 2" in telex("status", "--max-ready", "2", code=1).stderr
    assert "the oldest message waits for" in telex("status", "emails", "--max-age", "1ms", code=1).stderr
    (row,) = lines(telex("status", "emails", "--json").stdout)
    assert (row["ready"], row["dead"], row["consumers"], row["next_retry"]) == (3, 0, 0, None)
    assert isinstance(row["size"], int)


def test_status_tells_of_a_group_that_nobody_runs(telex: Shell) -> None:
    telex("publish", "orders.placed", '{"id": 1}')
    said = telex("status").stderr
    assert "orders.placed/billing keeps 1 message" in said
    assert "telex topology remove orders.placed/billing" in said


def test_watching_goes_on(telex: Shell) -> None:
    telex("topology", "apply")
    with telex.running("status", "emails", "--watch", "200ms", "--json") as process:
        assert process.stdout is not None
        first, second = json.loads(process.stdout.readline()), json.loads(process.stdout.readline())
        assert first["at"] < second["at"]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert "100ms to 1d" in telex("status", "--watch", "0", code=2).stderr


def test_a_limit_that_cannot_be_checked_is_no_success() -> None:
    unknown = SourceStats(source="emails", ready=None, dead=None, oldest=None)
    for given in ({"max_ready": 1}, {"max_dead": 1}, {"max_age": 60.0}):
        limits = Namespace(**{"max_ready": None, "max_dead": None, "max_age": None, **given})
        with pytest.raises(Failure, match="cannot be checked") as caught:
            status._over([unknown], "narrow", limits)
        assert caught.value.code == 4


# -- topology ----------------------------------------------------------------------------------------------------------


def test_plan_apply_verify_remove(telex: Shell) -> None:
    assert "+ queue emails would be created" in telex("topology", "plan").stdout
    assert {row["status"] for row in lines(telex("topology", "plan", "--json").stdout)} == {"create"}
    assert telex("status", "--json").stdout == ""  # Nothing was created by looking.
    assert "not as declared" in telex("topology", "verify", code=1).stderr
    assert "+ group billing of orders.placed created" in telex("topology", "apply").stdout
    assert telex("topology", "apply").stdout == telex("topology", "plan").stdout == ""
    telex("topology", "verify")
    program = telex.folder / "shop.py"
    program.write_text(program.read_text().replace('Queue("emails", str)', 'Queue("emails", str, ordered=True)'))
    assert (
        "~ queue emails exists and differs (ordered is False and should be True)"
        in telex("topology", "plan", code=1).stdout
    )
    assert "nothing was created" in telex("topology", "apply", code=1).stderr
    telex("topology", "verify", code=1)
    telex("status")  # Who looks can still look.
    telex("publish", "orders.placed", "{}", code=2)
    assert "say --yes" in telex("topology", "remove", "orders.placed/billing", code=2).stderr
    assert "group orders.placed/billing removed" in telex("topology", "remove", "orders.placed/billing", "--yes").stdout
    assert "there is no source" in telex("topology", "remove", "orders.placed/billing", "--yes", code=2).stderr


def test_removing_tells_what_is_lost(telex: Shell) -> None:
    telex("send", "emails", '"a"')
    with telex.terminal("topology", "remove", "emails") as terminal:
        terminal.until("queue emails will be removed with all it holds: 1 message, 0 dead letters")
        terminal.type("y\n")
        assert terminal.end() == 0
    assert {row["source"] for row in lines(telex("status", "--json").stdout)} == {
        "double",
        "orders.placed/billing",
        "slow",
    }


def test_a_picture_of_the_application(telex: Shell) -> None:
    picture = telex("topology", "show", "--mermaid").stdout
    assert picture.startswith("flowchart LR\n")
    assert 'c2[/"orders.placed"/]' in picture
    assert 'c2 --> s2("billing<br/>shop.bill")' in picture
    assert not (telex.folder / "shop.db").exists()  # It connects to nothing.
    nodes = set(re.findall(r"^    (\w+)[\[({]", picture, re.MULTILINE))
    used = {
        node
        for line in picture.splitlines()
        if "-->" in line or "-.->" in line
        for node in re.findall(r"\b[cs]\d+\b", line)
    }
    assert {node for node in used if node.startswith("c")} <= nodes
    table = telex("topology", "show").stdout
    assert re.search(r"topic +orders\.placed +- +billing +shop\.bill", table)


def test_the_picture_of_a_url_is_what_is_there(telex: Shell) -> None:
    telex("topology", "apply")
    del telex.env["TELEX_APP"]
    telex.env["TELEX_URL"] = "shop.db"
    rows = lines(telex("topology", "show", "--json").stdout)
    assert {(row["kind"], row["channel"], row["group"]) for row in rows} == {
        ("procedure", "double", None),
        ("queue", "emails", None),
        ("queue", "slow", None),
        ("topic", "orders.placed", "billing"),
    }
    assert "there is nothing to compare" in telex("topology", "verify").stderr
    assert "name one with -a" in telex("topology", "show", "--asyncapi", code=2).stderr


def test_the_asyncapi_document(telex: Shell) -> None:
    document = json.loads(telex("topology", "show", "--asyncapi").stdout)
    assert document["asyncapi"].startswith("3.")
    assert json.loads(telex("topology", "show", "--asyncapi", "--json").stdout) == document


# -- replay ------------------------------------------------------------------------------------------------------------


def test_replay_hands_the_past_out_again(telex: Shell) -> None:
    telex("publish", "orders.placed", "--lines", stdin="{}\n{}\n{}\n")
    telex("run", "--until-idle")
    telex("dead", "discard", "--all", "--yes")
    replay = ("replay", "orders.placed/billing", "--since")
    assert "3 messages published from" in telex(*replay, "-1h", "--dry-run").stdout
    assert "say --yes" in telex(*replay, "-1h", code=2).stderr
    assert json.loads(telex(*replay, "-1h", "--until", "-30m", "--yes", "--json").stdout) == {"count": 0, "done": False}
    assert "3 messages handed to orders.placed/billing again" in telex(*replay, "start", "--yes").stdout
    telex("run", "--until-idle")
    assert len(telex("dead", "list").stdout.splitlines()) == 3
    assert "only groups of a topic can be replayed" in telex("replay", "emails", "--since", "-1h", code=2).stderr
    assert "is not before" in telex(*replay, "-1h", "--until", "-2h", code=2).stderr
    assert "required: --since" in telex("replay", "orders.placed/billing", code=2).stderr


def test_replay_where_there_is_no_past(narrow: Shell) -> None:
    said = narrow("-p", "narrow", "replay", "parcels.moved/tracking", "--since", "start", code=4).stderr
    assert "it keeps no history. Instead: publish the messages again" in said


# -- doctor and engines ------------------------------------------------------------------------------------------------


def test_doctor_names_what_is_wrong(telex: Shell) -> None:
    said = telex("doctor", code=1).stdout
    assert "5 things are missing" in said
    assert "telex topology apply" in said
    telex("topology", "apply")
    assert "bad" not in telex("doctor").stdout
    telex("send", "emails", '"bad"')
    telex("run", "--until-idle")
    telex("send", "emails", '"a"')
    rows = lines(telex("doctor", "--json", code=1).stdout)
    assert {row["check"] for row in rows if not row["ok"]} == {"consumers", "dead"}


def test_doctor_against_another_engine(narrow: Shell) -> None:
    narrow("-a", "narrow:app", "topology", "apply")
    done = narrow("-a", "narrow:app", "doctor", "--against", "narrow", code=4)
    for feature, because, instead in (
        ("ordered", "it keeps no order", "declare the topic without ordered=True"),
        ("patterns", "it matches no words", "subscribe to each topic"),
        ("max_hold", "the handler of parcels.moved/tracking has a timeout of 5m00s", "a timeout of at most 1m00s"),
    ):
        assert re.search(
            rf"refused {feature}\n +because {re.escape(because)}.*\n +instead .*{re.escape(instead)}", done.stdout
        )
    assert "absent  replay (no handler asks for it)" in done.stdout
    assert "bodies may have 1000 B" in done.stdout
    assert "post cannot run on narrow as it is: 3 refusals" in done.stderr
    rows = lines(narrow("-a", "narrow:app", "doctor", "--against", "narrow", "--json", code=4).stdout)
    assert {row["feature"] for row in rows if row.get("asked")} == {"ordered", "patterns", "max_hold"}
    assert "simple can run on narrow" in narrow("-a", "narrow:simple", "doctor", "--against", "narrow").stderr
    assert "shop can run on memory" in narrow("doctor", "--against", "memory").stderr
    assert "no engine 'nothing'" in narrow("doctor", "--against", "nothing", code=2).stderr


def test_doctor_against_a_profile(narrow: Shell) -> None:
    profiles = (
        '[profiles.same]\napp = "shop:app"\n[profiles.env]\nurl_env = "NOT_SET"\n[profiles.one]\nurl = "one.db"\n'
    )
    (narrow.folder / "telex.toml").write_text(profiles)
    for name in ("same", "one"):
        assert "shop can run on embedded" in narrow("doctor", "--against", name).stderr
    assert "NOT_SET is not set" in narrow("doctor", "--against", "env", code=2).stderr


def test_an_application_that_only_verifies_can_be_applied(telex: Shell) -> None:
    program = telex.folder / "shop.py"
    program.write_text(program.read_text().replace('name="shop"', 'name="shop", topology="verify"'))
    assert "does not exist, and topology='verify' creates nothing" in telex("run", code=2).stderr
    telex("topology", "apply")
    telex("run", "--until-idle")


def test_doctor_against_what_cannot_be_reached(telex: Shell) -> None:
    (telex.folder / "telex.toml").write_text('[profiles.away]\nurl = "broken.db"\n')
    (telex.folder / "broken.db").write_text("this is no store " * 100)
    assert telex("doctor", "--against", "away", code=3).stderr.startswith("telex: ")


def test_refusals_end_with_their_own_code(narrow: Shell) -> None:
    for command in (("topology", "plan"), ("topology", "apply"), ("doctor",), ("run",)):
        done = narrow("-p", "narrow", *command, code=4)
        for because in ("it keeps no order", "it matches no words"):
            assert sum(because in line for line in (done.stdout + done.stderr).splitlines()) == 1


def test_a_backup_is_whole(telex: Shell) -> None:
    telex("send", "emails", '"a"')
    assert "copy.db written" in telex("doctor", "--backup", "copy.db").stdout
    assert "exists already" in telex("doctor", "--backup", "copy.db", code=2).stderr
    telex.env["TELEX_URL"] = "copy.db"
    del telex.env["TELEX_APP"]
    (row,) = lines(telex("status", "emails", "--json").stdout)
    assert row["ready"] == 1
    assert "give one" in telex("doctor", "--backup", "x", "--against", "file", code=2).stderr


def test_every_feature_is_shown(telex: Shell) -> None:
    shown = {field for field, _ in (*CAPABILITIES, *PROMISES, *LIMITS)}
    assert set(Features.__struct_fields__) - shown <= {"engine", "system", "holds_keys", "pipelined"}  # For the inside.
    text = telex("engines").stdout
    assert all(title in text for _, title in (*CAPABILITIES, *PROMISES, *LIMITS))
    assert next(line for line in text.splitlines() if "outlive" in line).split()[-3:] == ["yes", "no", "yes"]
    rows = lines(telex("engines", "--json").stdout)
    assert {"file", "memory", "amqp", "kafka", "aws"} <= {row["scheme"] for row in rows}
    assert telex("engines", "embedded").stdout.startswith("embedded (file://)")
    assert "no engine 'nothing'" in telex("engines", "nothing", code=2).stderr


# -- completion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_know_the_commands(telex: Shell, shell: str) -> None:
    script = telex("completion", shell).stdout
    for word in ("redrive", "topology", "--by-cause" if shell != "fish" else "by-cause"):
        assert word in script
    assert "--report" not in script


def test_bash_completes(telex: Shell) -> None:
    (telex.folder / "complete.bash").write_text(telex("completion", "bash").stdout)
    program = """
        source complete.bash
        complete_it() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            $(complete -p telex | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo "${COMPREPLY[@]}"; }
        complete_it telex de
        complete_it telex dead re
        complete_it telex dead redrive --dry
    """
    done = subprocess.run(["bash", "-c", program], cwd=telex.folder, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["dead", "redrive", "--dry-run"]


SLOW = """
import time
from telex.engines.embedded import replay

replay.STEP = 1  # Each step one run of messages, so that there is a middle.
quick = replay.replay


def slow(db, source, first, last, token, dry_run):
    if not dry_run:
        time.sleep(0.02)
    return quick(db, source, first, last, token, dry_run)


replay.replay = slow
"""


def test_an_interrupted_replay_says_how_to_go_on(telex: Shell) -> None:
    program = (
        "from shop import app, placed\nfrom telex.sync import Client\n"
        "with Client(app) as client:\n    for n in range(400):\n        client.publish(placed, {'n': n})\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=telex.folder, env=telex.env, check=True)
    telex("run", "--until-idle")
    telex("dead", "discard", "--all", "--yes")
    (telex.folder / "slow.py").write_text(SLOW + "from shop import app\n")
    with telex.terminal(
        "-a", "slow:app", "replay", "orders.placed/billing", "--since", "start", "--yes", width=400
    ) as terminal:
        terminal.until("replayed, ")
        terminal.type("\x03")
        code = terminal.end()
    assert code == 130, terminal.shown
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.shown)
    told = re.search(r"interrupted: (\d+) of 400 messages replayed; go on with: telex (.*)\r\n", shown)
    assert told, terminal.shown
    done = int(told[1])
    assert 0 < done < 400
    wrong = telex("replay", "orders.placed/billing", "--since", "start", "--resume", "xyz", code=2)
    assert "replay token 'xyz': give what an earlier step answered" in wrong.stderr
    rest = json.loads(telex(*told[2].split(), "--yes", "--json").stdout)
    assert rest == {"count": 400 - done, "done": True}
    telex("run", "--until-idle")
    assert len(telex("dead", "list", "orders.placed/billing").stdout.splitlines()) == 400


def test_a_damaged_store_cannot_be_reached(telex: Shell) -> None:
    (telex.folder / "shop.db").write_text("this is no store " * 100)
    for words in (("status",), ("dead", "list"), ("doctor",), ("run",)):
        assert telex(*words, code=3).stderr.startswith("telex: ")


def test_a_part_of_the_dead_letters_is_called_a_part(narrow: Shell) -> None:
    narrow.env["TELEX_APP"] = "narrow:simple"
    narrow("publish", "parcels.lost", "{}")
    narrow("run", "--until-idle")
    for words in (("dead", "list"), ("dead", "list", "--by-cause"), ("dead", "redrive", "--all", "--yes")):
        assert "there may be more" in narrow(*words).stderr
