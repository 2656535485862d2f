"""FastAPI: open in the lifespan, publish in a request, ask from a route.

uvicorn web_fastapi:api
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException

from telex import PublishFailed, PublishUncertain, RemoteError, RequestTimeout

from shop import Order, Price, QuoteRequest, app, placed, price


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with app:  # `async with app.running():` would run the handlers here too.
        yield


api = FastAPI(lifespan=lifespan)


@api.post("/orders", status_code=202)
async def create(order: Order) -> dict[str, str]:
    try:
        id = await app.publish(placed, order, id=f"order-{order.id}-placed")
        return {"message": id}
    except (
        PublishFailed,
        PublishUncertain,
    ) as error:  # The client asks again; the id is the same then.
        raise HTTPException(503, str(error)) from error


@api.get("/price/{sku}")
async def get_price(sku: str) -> Price:
    try:
        return await app.request(price, QuoteRequest(sku), timeout=5)
    except RequestTimeout as error:
        raise HTTPException(504, "the price service does not answer") from error
    except RemoteError as error:
        status = 404 if error.type == "LookupError" else 502
        raise HTTPException(status, error.text) from error
