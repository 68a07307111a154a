"""The server of the page: routes, limits on what is sent, and who may ask.

Nothing is written to disk, no cookie is set, and the page may load nothing from elsewhere. Starlette is imported where
it is needed: it is an extra.
"""

import asyncio
import dataclasses
import importlib.util
import ipaddress
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

from locdiff.errors import InputError
from locdiff.viz import base_map, tiles
from locdiff.viz.style import DARK
from locdiff.web import answers
from locdiff.web.answers import Answers, Refusal

INSTALL = "pip install -e '.[demo]'"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
MOST_WAITING = 8  # pictures or words at once, of all readers together
LONGEST_NAME = 200
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
KEEP, FORGET = "private, max-age=3600", "no-store"
_TEMPLATES = Environment(loader=PackageLoader("locdiff.web"), autoescape=True, undefined=StrictUndefined)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server at this address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_app(given: Answers, title: str, host: str = "127.0.0.1") -> Callable[..., Any]:
    """Return the ASGI application of the page; `host` is the address that it is served at.

    Raises InputError if the packages of the extra are not there.
    """
    try:
        from starlette.applications import Starlette
        from starlette.routing import Mount, Route
        from starlette.staticfiles import StaticFiles
    except ImportError:
        raise InputError(f"the page needs starlette: {INSTALL}") from None
    site, at = Site(given, title), "{zoom:int}/{x:int}/{y:int}"
    routes = [
        Route("/", site.page),
        Route("/demo.css", site.colors),
        Route("/pictures", site.picture, methods=["POST"]),
        Route("/words", site.words, methods=["POST"]),
        Route(f"/earth/{at}", site.earth),
        Route(f"/answers/{{key}}/{at}", site.tile),
        Route("/answers/{key}/taken", site.taken),
        Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        Mount("/leaflet", StaticFiles(directory=leaflet_folder())),
    ]
    app = Starlette(routes=routes, exception_handlers={Refusal: _refuse})
    return Guard(app, (*LOOPBACK_NAMES, host) if is_loopback(host) else None)


@lru_cache
def leaflet_folder() -> Path:
    """Return the folder of Leaflet's files. Raises InputError if the package that has them is not there."""
    found = importlib.util.find_spec("js_lib_leaflet")
    if found is None or not found.submodule_search_locations:
        raise InputError(f"the page needs django-js-lib-leaflet: {INSTALL}")
    return Path(found.submodule_search_locations[0]) / "static" / "js_lib_leaflet"


class Guard:
    """Refuses requests that another site makes through a reader's browser, and adds HEADERS to every response.

    `names` are those that a request may call this server by, any if None. A page of another site whose name was made to
    lead here (DNS rebinding) calls it by another.
    """

    def __init__(self, app, names: tuple[str, ...] | None):
        self.app, self.names = app, names

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_guarded(message):
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = message | {"headers": [*message.get("headers", ()), *own]}
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if reason := self._why_foreign(headers.get("host", ""), headers.get("origin")):
            return await _json({"error": reason}, 403)(scope, receive, send_guarded)
        await self.app(scope, receive, send_guarded)

    def _why_foreign(self, host, origin):
        try:
            name, asking = urlsplit(f"//{host}").hostname, urlsplit(origin or "").netloc
        except ValueError:
            name = asking = None
        if self.names is not None and name not in self.names:
            return f"This server answers requests to {', '.join(self.names[:3])} alone."
        if origin is not None and asking != host:
            return "This server answers requests of its own page alone."
        return ""


@dataclasses.dataclass
class Site:
    """What each route does."""

    answers: Answers
    title: str
    waiting: int = 0

    async def page(self, request):
        """Send the page."""
        limits = {
            "most_bytes": answers.MOST_BYTES, "most_pictures": answers.MOST_PICTURES, "kept": answers.KEPT,
            "most_letters": answers.MOST_LETTERS, "most_modes": answers.MOST_MODES, "deepest": tiles.DEEPEST,
        }  # fmt: skip
        sees, reads = self.answers.sees, self.answers.reads
        page = _TEMPLATES.get_template("demo.html").render(
            title=self.title, sees=sees, reads=reads, credit=base_map.CREDIT, config=self.answers.pipeline.model.config,
            **limits,
        )  # fmt: skip
        return _response(page, "text/html", FORGET)

    async def colors(self, request):
        """Send the style sheet, in the colors of the project's dark style."""
        sheet = _TEMPLATES.get_template("demo.css").render(style=dataclasses.asdict(DARK))
        return _response(sheet, "text/css", FORGET)

    async def picture(self, request):
        """Answer on the picture in the body, by the name in the query."""
        name = " ".join(request.query_params.get("name", "").split())[:LONGEST_NAME] or "The picture"
        return await self._answer(request, name, answers.MOST_BYTES, lambda data: self.answers.of_picture(name, data))

    async def words(self, request):
        """Answer on the words in the body, UTF-8."""

        def answer(data):
            try:
                return self.answers.of_words(data.decode())
            except UnicodeDecodeError:
                raise Refusal("The text is not UTF-8.", 400) from None

        return await self._answer(request, "The text", 4 * answers.MOST_LETTERS + 1000, answer)

    async def earth(self, request):
        """Send a tile of the map."""
        data = await asyncio.to_thread(answers.earth_tile, **request.path_params)
        return _response(data, "image/webp", KEEP)

    async def tile(self, request):
        """Send a tile of a density."""
        return _response(await asyncio.to_thread(self.answers.tile, **request.path_params), "image/png", FORGET)

    async def taken(self, request):
        """Send the place in the file of an answer."""
        return _json(await asyncio.to_thread(self.answers.taken, request.path_params["key"]))

    async def _answer(self, request, name, most, answer):
        """Send answer(body), computed in a thread. Raises Refusal for over `most` bytes, or if too many wait."""
        if self.waiting >= MOST_WAITING:
            raise Refusal(f"{name} was not taken: {MOST_WAITING} others are being located; try again in a minute.", 429)
        self.waiting += 1
        try:
            data = await self._body(request, name, most)
            return _json(await asyncio.to_thread(answer, bytes(data)))
        finally:
            self.waiting -= 1

    async def _body(self, request, name, most):
        """Return the body, of which no more than `most` bytes are read. Raises Refusal if it has more."""
        too_long = Refusal(f"{name} has more than {most:,} bytes: give a smaller one.", 413)
        if int(request.headers.get("content-length", "0")) > most:
            raise too_long
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > most:
                raise too_long
        return data


def _refuse(request, refusal):
    return _json({"error": str(refusal)}, refusal.status)


def _json(record, status=200):
    return _response(json.dumps(record, allow_nan=False), "application/json", FORGET, status)


def _response(body, kind, keep, status=200):
    from starlette.responses import Response

    return Response(body, status, {"cache-control": keep}, kind)
