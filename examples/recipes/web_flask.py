"""Flask under prefork gunicorn: one client, which opens by itself in every worker.

gunicorn --config gunicorn_conf.py web_flask:web
"""

import os

from flask import Flask, Response, jsonify, request

from telex import RemoteError, RequestTimeout
from telex.sync import Client

from shop import Email, QuoteRequest, app, emails, price

client = Client(app)  # Before the fork, in the parent: nothing is open yet.
web = Flask(__name__)


@web.post("/remind/<who>")
def remind(who: str) -> Response:
    about = request.args.get("about", "your basket")
    return jsonify(id=client.send(emails, Email(who, about)), worker=os.getpid())


@web.get("/price/<sku>")
def get_price(sku: str) -> tuple[Response, int]:
    try:
        answer = client.request(price, QuoteRequest(sku), timeout=5)
        return jsonify(cents=answer.cents), 200
    except (RequestTimeout, RemoteError) as error:
        return jsonify(error=str(error)), 502
