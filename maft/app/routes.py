"""What the browser asks for beside Gradio's own pages: photos in, pictures and files out, all of them in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
import anyio.to_thread
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maft.app.answers import Answer
from maft.app.downloads import DOWNLOADS, Wish
from maft.app.explanations import ExplanationPage
from maft.app.memory import Memory
from maft.app.photos import Examples, Limits, Photo, read_photo
from maft.app.regions import VIEWS, regions
from maft.errors import UserError

# Everything comes from here; Gradio's own pages need scripts and styles within them.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; form-action 'self'; "
    "base-uri 'self'; frame-ancestors 'self'"
)
# A page that reaches nothing of the app: the sandbox gives it an origin of its own.
_ALONE = "sandbox allow-scripts; frame-ancestors 'self'"
# Of all pictures that are arriving or wait to be decoded, in files of the largest size.
_MOST_WAITING = 8
_GONE = "This answer is no longer kept: label the picture again."
_NO_EXAMPLE = "There is no such example: reload the page."
_NOT_STORED = {"Cache-Control": "no-store"}


class Routes:
    """The app's own addresses.

    Args:
        memory: holds `Photo` and `Answer`.
        examples: pictures to choose from.
        limits: what a visitor may send.
        explanations: pages to show.
    """

    def __init__(
        self, memory: Memory, examples: Examples, limits: Limits, explanations: Sequence[ExplanationPage] = ()
    ) -> None:
        self.memory, self.examples, self.limits, self.explanations = memory, examples, limits, explanations
        self._thumbnails: dict[str, bytes] = {}
        self._waiting = 0
        # Decoding takes memory: what waits costs nothing but its file.
        self._decoding = anyio.CapacityLimiter(2)

    def all(self) -> list[Route]:
        """For the server."""
        return [
            Route("/maft/photos", self.take_photo, methods=["POST"]),
            Route("/maft/photos/{token}", self.show_photo),
            Route("/maft/examples/{number}", self.take_example, methods=["POST"]),
            Route("/maft/examples/{number}", self.show_example),
            Route("/maft/explanations/{number}", self.show_explanation),
            Route("/maft/answers/{token}/regions/{view}", self.show_regions),
            Route("/maft/answers/{token}/{file}", self.download),
        ]

    async def take_photo(self, request: Request) -> Response:
        """Keeps the picture in the body; answers with its name here, or with what is wrong with it."""
        data = bytearray()
        try:
            # Before the first byte of it is taken in, where the browser says how many there will be.
            self.limits.check_bytes(int(request.headers.get("content-length", 0)))
            async for chunk in request.stream():
                data += chunk
                self._waiting += len(chunk)
                self.limits.check_bytes(len(data))
                if self._waiting > _MOST_WAITING * self.limits.most_bytes:
                    return JSONResponse({"error": "Too many pictures arrive at once: send yours again soon."}, 503)
            return await self._kept(lambda: bytes(data))
        except UserError as error:
            return JSONResponse({"error": str(error)}, 413)
        finally:
            self._waiting -= len(data)

    async def take_example(self, request: Request) -> Response:
        """The same for one of the examples."""
        file = self._example(request)
        return await self._kept(file) if file else JSONResponse({"error": _NO_EXAMPLE}, 404)

    def _example(self, request: Request) -> Callable[[], bytes] | None:
        # Compared as text: some numbers are too long to be read as one.
        numbers = {str(number): file for number, (_, file) in enumerate(self.examples)}
        return numbers.get(request.path_params["number"])

    async def _kept(self, file: Callable[[], bytes]) -> Response:
        try:
            photo = await anyio.to_thread.run_sync(lambda: read_photo(file(), self.limits), limiter=self._decoding)
        except UserError as error:
            return JSONResponse({"error": str(error)}, 422)
        except OSError as error:
            return JSONResponse({"error": f"The picture cannot be read ({error.strerror}): choose another."}, 422)
        token = self.memory.put(photo, photo.size)
        return JSONResponse(
            {"photo": token, "width": photo.width, "height": photo.height, "remark": photo.remark},
            headers=_NOT_STORED,
        )

    def show_photo(self, request: Request) -> Response:
        """The picture as it is shown."""
        photo = self.memory.get(request.path_params["token"])
        if not isinstance(photo, Photo):
            return JSONResponse({"error": _GONE}, 404)
        kind = "image/png" if photo.preview.startswith(b"\x89PNG") else "image/jpeg"
        return Response(photo.preview, media_type=kind, headers=_NOT_STORED)

    def show_example(self, request: Request) -> Response:
        """A small picture of an example."""
        number, file = request.path_params["number"], self._example(request)
        if file is None:
            return JSONResponse({"error": _NO_EXAMPLE}, 404)
        if number not in self._thumbnails:
            try:
                self._thumbnails[number] = read_photo(file(), self.limits).thumbnail()
            except (UserError, OSError) as error:
                return JSONResponse({"error": str(error)}, 404)
        return Response(self._thumbnails[number], media_type="image/png")

    def show_explanation(self, request: Request) -> Response:
        """A page of ``maft explain``, which may do nothing beside showing itself."""
        pages = {str(number): one for number, one in enumerate(self.explanations)}
        page = pages.get(request.path_params["number"])
        if page is None:
            return JSONResponse({"error": "There is no such explanation: reload the page."}, 404)
        headers = {**_NOT_STORED, "Content-Security-Policy": f"{_ALONE}; {page.policy}"}
        return Response(page.page, media_type="text/html", headers=headers)

    def show_regions(self, request: Request) -> Response:
        """What `Regions.packed` writes of a view."""
        answer, view = self.memory.get(request.path_params["token"]), request.path_params["view"]
        seen = regions(answer.prediction, view) if isinstance(answer, Answer) and view in VIEWS else None
        if seen is None:
            return JSONResponse({"error": _GONE}, 404)
        return Response(seen.packed(), media_type="application/octet-stream", headers=_NOT_STORED)

    def download(self, request: Request) -> Response:
        """A file of an answer."""
        answer, file = self.memory.get(request.path_params["token"]), request.path_params["file"]
        if not isinstance(answer, Answer) or file not in DOWNLOADS:
            return JSONResponse({"error": _GONE}, 404)
        try:
            wish = Wish.of(request.query_params)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 422)
        kind, made = DOWNLOADS[file]
        headers = {**_NOT_STORED, "Content-Disposition": f'attachment; filename="{file}"'}
        return Response(made(answer.prediction, wish), media_type=kind, headers=headers)


class Policy:
    """Says with every answer of an application that its pages may ask no other host for anything.

    Gradio's own way to upload, which stores files, is closed: pictures come by `Routes.take_photo`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", _POLICY)
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        closed = scope["type"] == "http" and scope["path"].rstrip("/").endswith("/upload")
        await (Response(status_code=404) if closed else self.app)(scope, receive, with_policy)
