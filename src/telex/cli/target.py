"""Which application a command is about: ``-a``, ``-p``, TELEX_APP, TELEX_URL, the default profile of telex.toml."""

from __future__ import annotations

import importlib
import os
import sys
from argparse import Namespace

from ..app import URL, Telex
from .output import Exit, Failure
from .profiles import FILE, Profile, find_profile

APP = "TELEX_APP"


def find_app(arguments: Namespace) -> Telex:
    """The application a command is about; without one, an application without handlers on the URL.

    ``-a`` with ``-p`` is that application at the profile's URL.

    Raises:
        Failure: None is named, or it cannot be imported.
    """
    wanted, named = arguments.target, arguments.profile
    if named is None and wanted is None:
        if os.environ.get(APP):
            return load(os.environ[APP])
        if os.environ.get(URL):
            return Telex(name="telex-cli")
    if named is not None or wanted is None:
        profile = find_profile(named)
        if profile is not None:
            return of_profile(profile, wanted)
    if wanted is not None:
        return load(wanted)
    raise Failure(
        Exit.USAGE, f"no application: give -a MODULE:APP or -p PROFILE, set {APP} or {URL}, or write a {FILE}"
    )


def of_profile(profile: Profile, wanted: str | None = None) -> Telex:
    """The application of a profile, or another one at its URL.

    Raises:
        Failure: It cannot be imported, or there is no URL.
    """
    name = wanted or profile.app
    app = load(name) if name else Telex(name="telex-cli")
    if profile.url is not None:
        app.relocate(profile.url)
    elif not name and not os.environ.get(URL):
        raise Failure(Exit.USAGE, f"{profile.file}: profile {profile.name!r} has neither an app nor a url")
    return app


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
            Exit.USAGE, f"application {name!r}: importing it failed: {type(error).__name__}: {error}{_place(error)}"
        ) from error
    app = getattr(module, attribute, None)
    if not isinstance(app, Telex):
        found = [key for key, value in vars(module).items() if isinstance(value, Telex)]
        hint = f"it has {', '.join(found)}" if found else "it has no Telex at all"
        raise Failure(Exit.USAGE, f"application {name!r}: {attribute} is no Telex in {module_name}; {hint}")
    return app


def _place(error: Exception) -> str:
    """Where an import failed: the innermost place, for a module that imports others."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<") and file != __file__ and "importlib" not in file:
            place = f" ({os.path.relpath(file)}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place
