"""A job for cron: fills a queue, works it off with retries, and ends."""

import asyncio
import sys
from datetime import date

from telex import Queue, Retry, Telex, idempotent
from telex.idempotency import SQLiteStore

from shop import Email

reminders = Queue("reminders", Email)
app = Telex(name="nightly")


@app.receive(reminders, concurrency=1, retry=Retry(attempts=3, delay=5))
@idempotent(SQLiteStore("reminded.db"))
def remind(email: Email) -> None:
    print(f"reminded {email.to}", flush=True)


async def main(day: date, customers: list[str]) -> None:
    async with app:
        mails = [Email(customer, "your basket") for customer in customers]
        await app.send_many(reminders, mails, id=lambda mail: f"reminder-{day}-{mail.to}")
        await app.run(until_idle=True)  # Waits for retries too.
        if dead := await app.dead_letters(reminders).count():
            sys.exit(f"{dead} reminders failed: telex dead list reminders")


if __name__ == "__main__":
    asyncio.run(main(date.today(), ["ann", "bob", "cleo"]))
