"""The demonstration, as one story."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from . import report
from .app import RESULTS, app
from .channels import Carrier, Flight, MeanDelay, flights, mean_delay
from .data import read_airlines
from .handlers import accept_cancelled
from .progress import Accident, Work
from .store import Store
from .totals import Totals, differences, from_data, from_results, repeats
from .workers import Workers

GROUPS = 3
WATCH = "flights.*/watch"
DELAYS = "flights.departures/delays"
SOURCES = (WATCH, DELAYS, "flights.departures/rotations", "alerts", "carriers.mean_delay")


async def tell(data: Sequence[Flight], folder: Path, restart: str = "") -> list[str]:
    """Runs the whole story in an empty place; every difference between the results and the data, one line each.

    Args:
        data: The flights.
        folder: For the results, and for the messages if ``TELEX_URL`` names no other place; emptied first.
        restart: A shell command that restarts the broker; it is run when three quarters of the work are done.
    """
    results = _prepare(folder)
    if _is_broker():
        await _remove_old()
    truth = from_data(data)
    workers = Workers()
    async with app:
        try:
            await workers.start()
            await workers.start()
            work = Work(app, GROUPS, workers.check)
            await _publish_and_handle(data, work, workers, restart)
            wrong = await _first_check(truth, results)
            wrong += await _repair(truth, results, work)
        finally:
            await workers.stop()
    return wrong


def _prepare(folder: Path) -> Path:
    """Empties the folder and tells this process and the workers where messages and results are."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    results = folder / "results.db"
    os.environ[RESULTS] = str(results)
    os.environ["TELEX_URL"] = os.environ.get("TELEX_URL") or str(folder / "telex.db")
    return results


def _is_broker() -> bool:
    return "://" in os.environ["TELEX_URL"]


async def _remove_old() -> None:
    """Removes what an earlier run left on a broker, which is not emptied like a folder."""
    async with app:
        for source in (await app.stats()).sources:
            if source.source in SOURCES:
                await app.remove(source.source)


async def _publish_and_handle(data: Sequence[Flight], work: Work, workers: Workers, restart: str) -> None:
    """Publishes everything while the workers work; half-way one is killed, later the broker is restarted."""

    async def kill(in_hand: int | None) -> None:
        killed = await workers.kill()
        started = await workers.start()
        tqdm.write(f"half-way: SIGKILL for worker {killed}, {_number(in_hand)} in hand; started worker {started}")
        if restart:
            await asyncio.sleep(1)
            await work.joined(DELAYS, 2)  # One that finds no broker when it starts would end, and rightly.

    async def restart_broker(in_hand: int | None) -> None:
        start = time.perf_counter()
        process = await asyncio.create_subprocess_shell(restart)
        if await process.wait() != 0:
            raise RuntimeError(f"the command that restarts the broker ended with {process.returncode}: {restart}")
        seconds = time.perf_counter() - start
        tqdm.write(f"three quarters: the broker was restarted, {_number(in_hand)} in hand; {seconds:.1f} s")

    accidents = [Accident(0.5, kill), *([Accident(0.75, restart_broker)] if restart else [])]
    start = time.perf_counter()
    following = asyncio.create_task(work.follow(len(data), accidents))
    try:
        await _publish(data, work)
        published = time.perf_counter() - start
        await following
    finally:
        following.cancel()
    handled = time.perf_counter() - start
    print()
    print(report.rate("flights published", len(data), published))
    print(report.rate("deliveries handled", GROUPS * len(data), handled))


def _number(in_hand: int | None) -> str:
    return "deliveries" if in_hand is None else f"{in_hand:,} deliveries"


async def _publish(data: Sequence[Flight], work: Work) -> None:
    with tqdm(total=len(data), desc="published", unit=" flights", position=0, mininterval=0.5) as bar:

        def progress(count: int) -> None:
            work.published += count
            bar.update(count)

        await app.publish_many(flights, data, id=lambda flight: flight.id, window=2000, progress=progress)


async def _first_check(truth: Totals, results: Path) -> list[str]:
    """Everything but the cancelled flights, which are dead letters so far."""
    found = from_results(results)
    answers = await _ask(truth)
    again = repeats(results)
    print(f"{sum(again.values()):>9,} deliveries came a second time after what happened; their ids were known: {again}")
    print()
    print(report.carriers(answers, read_airlines()))
    print()
    print(report.rotations(found))
    print(f"{len(found.alerts):,} flights left more than three hours late")
    expected = Totals(carriers=truth.carriers, aircraft=truth.aircraft, alerts=truth.alerts, cancelled=frozenset())
    wrong = differences(expected, found)
    wrong += [f"request {c}: {answers[c]} instead of {m}" for c, m in truth.carriers.items() if answers[c] != m]
    return wrong


async def _ask(truth: Totals) -> dict[str, MeanDelay]:
    """The workers' own answers."""
    carriers = sorted(truth.carriers)
    answers = await asyncio.gather(*(app.request(mean_delay, Carrier(c), timeout=10) for c in carriers))
    return dict(zip(carriers, answers, strict=True))


async def _dead() -> int:
    """Dead letters of the watchers, as the broker counts them."""
    (stats,) = (stats for stats in (await app.stats()).sources if stats.source == WATCH)
    return stats.dead or 0


async def _repair(truth: Totals, results: Path, work: Work) -> list[str]:
    """Dead letters by cause; the fault is repaired; they are sent again."""
    letters = app.dead_letters(WATCH)
    found = await letters.causes()
    print()
    print(report.causes(found))
    dead = await _dead()
    listed = [letter.message.id async for letter in letters]
    wrong = [f"dead letter {id} is no cancelled flight" for id in set(listed) - truth.cancelled]
    if len(listed) < dead:  # What is missing shows after the redrive, in the totals.
        print(f"{dead:>13,}  in all; the broker shows the first {len(listed):,}")
    else:
        wrong += [f"the dead letter of {id} is missing" for id in truth.cancelled - set(listed)]
    if app.features.atomic and dead != len(truth.cancelled):  # Elsewhere a kill may leave a second copy, same id.
        wrong += [f"{dead} dead letters instead of {len(truth.cancelled)}"]

    store = Store(results)
    await store.open()
    await store.run(accept_cancelled)
    await store.close()
    start = time.perf_counter()
    with tqdm(total=dead, desc="redriven ", unit=" letters") as bar:
        redriven = await letters.redrive(progress=bar.update)
    await work.idle()
    print(report.rate("dead letters redriven and handled after the repair", redriven, time.perf_counter() - start))

    left = await app.dead_letters().count()
    wrong += [] if left == 0 else [f"{left} dead letters are left"]
    wrong += [] if redriven == dead else [f"{redriven} of {dead} dead letters were redriven"]
    return wrong + differences(truth, from_results(results))
