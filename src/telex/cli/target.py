"""Which application a command is about."""

from __future__ import annotations

import importlib
import os
import sys

from ..app import URL, Telex
from .output import Exit, Failure

APP = "TELEX_APP"


def find_app(wanted: str | None) -> Telex:
    """The application named by ``-a``, else by TELEX_APP, else one without handlers on TELEX_URL.

    Raises:
        Failure: None is named, or it cannot be imported.
    """
    name = wanted or os.environ.get(APP)
    if name:
        return load(name)
    if os.environ.get(URL):
        return Telex(name="telex-cli")
    raise Failure(Exit.USAGE, f"no application: give -a MODULE:APP, or set {APP} or {URL}")


def load(name: str) -> Telex:
    """Imports ``module:attribute`` from the working directory.

    Raises:
        Failure: There is no such module, or no Telex in it.
    """
    module_name, mark, attribute = name.partition(":")
    if not mark or not module_name or not attribute:
        raise Failure(Exit.USAGE, f"application {name!r}: write MODULE:APP, for example shop:app")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # The module is the user's: importing it may raise anything.
        raise Failure(
            Exit.USAGE, f"application {name!r}: importing it failed: {type(error).__name__}: {error}"
        ) from error
    app = getattr(module, attribute, None)
    if not isinstance(app, Telex):
        found = [key for key, value in vars(module).items() if isinstance(value, Telex)]
        hint = f"it has {', '.join(found)}" if found else "it has no Telex at all"
        raise Failure(Exit.USAGE, f"application {name!r}: {attribute} is no Telex in {module_name}; {hint}")
    return app
