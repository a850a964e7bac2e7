"""The HTTP interface of a `Desk`, described by ``/api/openapi.json``."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

import dataclasses
import hmac
import io
import math
import tempfile
import typing
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi import Body, Depends, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from pydantic import AfterValidator, AllowInfNan, BaseModel, ConfigDict, Field, Strict, create_model
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import semdrivers
from semdrivers import AutofocusSettings
from semdrivers.base import METHODS, PROPERTIES
from semdrivers.errors import (
    BusyError,
    InterlockError,
    InvalidParameterError,
    NotConnectedError,
    OutOfRangeError,
    SemDriversError,
    StoppedError,
    TransportError,
)
from semdrivers.files import plain
from semdrivers.remote import CLIENT_HEADER, LEASE_HEADER
from semfocus_plugin.labelling import served_page
from semfocus_plugin.networks import Evaluation
from semfocus_plugin.server._desk import PLACE, Desk, Frame, NoControlError, problem
from semfocus_plugin.server._labels import LabelSheet

Number = Annotated[float, Strict(), AllowInfNan(False)]
Whole = Annotated[int, Strict()]
Flag = Annotated[bool, Strict()]
Pair = tuple[Number, Number]


def _shallow(value: Any, levels: int = 10) -> Any:
    """Return a value of JSON; raises ValueError where it is nested more deeply than any record."""
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if levels == 0:
            raise ValueError("nested too deeply for a record of autofocus")
        _shallow(each, levels - 1)
    return value


_WRITABLE: dict[str, Any] = {
    "working_distance": Number,
    "magnification": Number,
    "stigmator": Pair,
    "beam_shift": Pair,
    "brightness": Number,
    "contrast": Number,
    "beam_on": Flag,
    "focus_record": Annotated[dict[str, Any] | None, AfterValidator(_shallow)],
}
"""What each property takes; the others are read alone."""
_ARGUMENTS: dict[str, Any] = {"move_stage": Pair, "orient_stage": Pair}
"""What each method takes; the others take nothing."""
_STATUS = (
    (NoControlError, 423),
    (InvalidParameterError, 422),
    (OutOfRangeError, 422),
    (BusyError, 409),
    (InterlockError, 409),
    (StoppedError, 409),
    (NotConnectedError, 503),
    (TransportError, 503),
    (SemDriversError, 502),
)
"""HTTP status of each error, the first that fits; 502 for what the instrument or its driver reports."""
_PAGE = Path(__file__).parent / "page"
_POLICY = "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MOST_SENT = 2**20
"""Bytes of a request at most; the longest that any client needs is a record of autofocus."""
_MOST_DISCARDED = 16 * _MOST_SENT
_FORMATS = {"tif": "image/tiff", "jpg": "image/jpeg", "png": "image/png"}


class Problem(BaseModel):
    """What went wrong: the name of an exception of `semdrivers.errors`, and a sentence for a person."""

    error: str
    message: str


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FrameRequest(_Body):
    """Which frame to scan."""

    mode: str | None = Field(None, description="Name of a scan mode; the fastest by default.", max_length=100)


class LeaseRequest(_Body):
    """How to take control."""

    force: Flag = Field(False, description="Take over from a client that is still there.")


class EmulatorRequest(_Body):
    """What to emulate."""

    specimen: str = Field(max_length=100)
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 1
    magnification: Number | None = Field(None, description="As it is by default.")
    faults: str = Field("", max_length=300)


class LabelRequest(_Body):
    """A label, or none."""

    file: str = Field(max_length=1000)
    label: Annotated[Number, Field(ge=0, le=9)] | None


class StopRequest(_Body):
    """How to stop."""

    keep_beam: Flag = False


def _settings_model() -> type[BaseModel]:
    """Return `AutofocusSettings` as a model; of ``scan_mode`` the name."""
    kinds: dict[Any, Any] = {float: Number, int: Whole, bool: Flag, tuple[float, float]: Pair}
    members: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(AutofocusSettings).items():
        kind = kinds.get(next((part for part in typing.get_args(hint) or (hint,) if part in kinds), None), str)
        default = AutofocusSettings.__dataclass_fields__[name].default
        members[name] = (kind | None if default is None else kind, default)
    return create_model("AutofocusRequest", __base__=_Body, **members)


AutofocusRequest = _settings_model()


def create_app(desk: Desk, *, token: str | None = None) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    desk : Desk
        What it shares.
    token : str, optional
        What clients must send as ``Authorization: Bearer TOKEN``; by default everybody who reaches the port may do
        everything.
    """
    app = FastAPI(
        title="semfocus",
        version=semdrivers.__version__,
        description="A scanning electron microscope, shared: one client controls it, all may watch. Working distances "
        f"in mm, pixel sizes in nm. Whatever changes or scans needs the header {LEASE_HEADER}.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    _add_guard(app, any_host=token is not None)
    bearer = HTTPBearer(auto_error=False)

    async def authorised(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        sent = "" if given is None else given.credentials
        if token is not None and not hmac.compare_digest(sent.encode(), token.encode()):
            raise HTTPException(401, "send the token of the server: Authorization: Bearer TOKEN")

    problems: dict[int | str, dict[str, Any]] = {
        code: {"model": Problem, "description": text}
        for code, text in (
            (400, "The request cannot be read."),
            (401, "The token is missing or wrong."),
            (403, "A page of another server asks."),
            (404, "There is no such thing, or it is no longer kept."),
            (409, "The instrument is busy, interlocked or stopped."),
            (411, "The request does not state its length."),
            (413, "The request is too long."),
            (422, "A value is of the wrong kind or beyond a limit; nothing has moved."),
            (423, "The request needs control of the instrument: POST /api/lease."),
            (502, "The instrument or its driver reports a failure."),
            (503, "The link to the instrument is lost."),
        )
    }
    guarded: dict[str, Any] = {"dependencies": [Depends(authorised)], "responses": problems}
    Lease = Annotated[str, Header(alias=LEASE_HEADER, max_length=100)]
    Client = Annotated[str, Header(alias=CLIENT_HEADER, max_length=100)]

    async def lease_of(lease: Lease = "") -> Any:
        with desk.controlled(lease) as client:
            yield client

    InControl = Annotated[str, Depends(lease_of, scope="function")]

    @app.exception_handler(SemDriversError)
    def semdrivers_error(_: Request, error: SemDriversError) -> JSONResponse:
        code = next(code for kind, code in _STATUS if isinstance(error, kind))
        return JSONResponse(problem(error), code)

    @app.exception_handler(RequestValidationError)
    def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        said = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        return JSONResponse({"error": "InvalidParameterError", "message": said}, 422)

    @app.exception_handler(HTTPException)
    def http_error(_: Request, error: HTTPException) -> JSONResponse:
        answer = {"error": "SemDriversError", "message": str(error.detail)}
        return JSONResponse(answer, error.status_code, headers=error.headers)

    @app.get("/api/status", **guarded)
    def status() -> dict[str, Any]:
        """Return the whole state. The instrument is asked nothing."""
        return desk.status()

    @app.get("/api/capabilities", **guarded)
    def capabilities() -> dict[str, Any]:
        """Return limits and scan modes, as the instrument reports them."""
        values: dict[str, Any] = plain(desk.microscope.capabilities)
        return values

    @app.get("/api/events", response_class=StreamingResponse, **guarded)
    async def events() -> StreamingResponse:
        """Stream server-sent events: status (first), control, place, frame, run, step, ended, stopped, lost, found."""
        return StreamingResponse(desk.events.stream(desk.status), media_type="text/event-stream")

    @app.post("/api/lease", **guarded)
    def take_control(request: LeaseRequest, client: Client = "an unnamed client") -> dict[str, str]:
        """Take control of the instrument; what it returns goes into the header of what changes or scans."""
        return {"lease": desk.take(client, request.force)}

    @app.delete("/api/lease", **guarded)
    def give_up_control(lease: Lease = "") -> dict[str, Any]:
        """Give up control, so that another client may take it at once."""
        desk.release(lease)
        return desk.control()

    @app.put("/api/lease", **guarded)
    def keep_control(client: InControl) -> dict[str, str]:
        """Keep control while nothing else is asked."""
        return {"client": client}

    @app.post("/api/frames", **guarded)
    def acquire(request: FrameRequest, client: InControl) -> dict[str, Any]:
        """Scan a frame, and return its number and conditions."""
        return desk.acquire(desk.mode_of(request.mode)).to_dict()

    @app.get("/api/frames/{number}.{kind}", response_class=Response, **guarded)
    def frame(number: int, kind: Literal["tif", "jpg", "png"]) -> Response:
        """Return a frame: OME-TIFF with everything known of it, or a picture stretched to eight bits."""
        kept = _kept(desk.find_frame, number, "frame")
        return Response(_encoded(kept, kind), media_type=_FORMATS[kind])

    @app.get("/api/frames/{number}/score", **guarded)
    def score(number: int) -> dict[str, Any]:
        """Return what the network says of a frame; null where it cannot look at it, or does not say.

        `score` is 0 to 9. `blur` has both radii in pixels of the frame, and the direction of the larger in degrees from
        the lines towards the next line, which is null for a network that reports round blur alone.
        """
        return _seen(_kept(desk.look, number, "frame"))

    @app.get("/api/tiles", **guarded)
    def tiles() -> dict[str, Any]:
        """Return the tiles and the focus map of the folder that the server shows, as far as they are."""
        if desk.tiles is None:
            raise HTTPException(404, "this server shows no tiles: start it with --tiles FOLDER")
        return desk.tiles.state()

    @app.get("/api/autofocus", **guarded)
    def runs() -> list[dict[str, Any]]:
        """Return the runs that are kept, the earliest first."""
        return [desk.summary(run) for run in list(desk.runs)]

    @app.post("/api/autofocus", status_code=202, **guarded)
    def focus(request: AutofocusRequest, client: InControl) -> dict[str, Any]:  # type: ignore[valid-type]
        """Begin an autofocus run.

        Without ``max_travel`` it keeps within 3 mm or 60 depths of field of its start, as ``semfocus run`` does; with
        null the instrument and ``bounds`` alone limit it.
        """
        model = typing.cast(BaseModel, request)
        values = {name: getattr(model, name) for name in AutofocusSettings.__dataclass_fields__}
        if values["scan_mode"] is not None:
            values["scan_mode"] = desk.mode_of(values["scan_mode"])
        settings = AutofocusSettings(**values)
        return desk.focus(client, settings, travel_given="max_travel" in model.model_fields_set).to_dict()

    @app.get("/api/autofocus/{number}", **guarded)
    def run(
        number: int, after: Annotated[int, Field(ge=0)] = 0, wait: Annotated[float, Field(ge=0, le=30)] = 0.0
    ) -> dict[str, Any]:
        """Return a run with its steps from `after` on, once there are any, it has ended, or `wait` seconds are over."""
        found = _kept(desk.find_run, number, "run")
        found.wait(after, wait)
        return {**found.to_dict(after), **{name: _number(getattr(found, name)) for name in ("before", "after")}}

    @app.get("/api/autofocus/{number}/report.html", response_class=Response, **guarded)
    def report(number: int) -> Response:
        """Return the report of a run, one file that holds everything."""
        return Response(_kept(desk.report, number, "run with a result"), media_type="text/html")

    @app.delete("/api/autofocus/{number}", **guarded)
    def cancel(number: int, client: InControl) -> dict[str, Any]:
        """Cancel a run: before its next frame, and within one where the instrument can be stopped."""
        found = _kept(desk.find_run, number, "run")
        desk.cancel(number)
        state: dict[str, Any] = found.to_dict()
        return state

    stopping = CapacityLimiter(4)

    @app.post("/api/stop", **guarded)
    async def stop(request: StopRequest) -> dict[str, str]:
        """End the scan and the run at once, and blank the beam. Needs no control: everybody may stop."""
        # In threads of its own: those of other requests may all be waiting for the very frame that it ends.
        await to_thread.run_sync(desk.stop, request.keep_beam, limiter=stopping)
        return {"stopped": "the beam is kept" if request.keep_beam else "the beam is blanked"}

    @app.post("/api/reconnect", **guarded)
    def reconnect(client: InControl) -> dict[str, Any]:
        """Close the link to the instrument, and open it again."""
        desk.reconnect()
        return desk.status()

    @app.put("/api/emulator", **guarded)
    def emulate(request: EmulatorRequest, client: InControl) -> dict[str, Any]:
        """Put another specimen under the beam, where the instrument is an emulator."""
        desk.emulate(request.specimen, request.seed, request.magnification, request.faults)
        return desk.status()

    def sheet() -> LabelSheet:
        if desk.labels is None:
            raise HTTPException(404, "this server has no sheet of labels: start it with --labels SHEET")
        return desk.labels

    @app.get("/api/labels", **guarded)
    def labels() -> dict[str, Any]:
        """Return the sheet of labels: its path, columns and rows, in the order to look at them."""
        return sheet().state()

    @app.get("/api/labels/picture", **guarded)
    def picture(file: Annotated[str, Field(max_length=1000)]) -> dict[str, Any]:
        """Return a picture of the sheet: reduced, and parts of it pixel by pixel, as data URIs."""
        return dataclasses.asdict(_kept(sheet().preview, file, "picture"))

    @app.put("/api/labels", **guarded)
    def label(request: LabelRequest) -> dict[str, Any]:
        """Write the label of one picture into the sheet, 0 to 9; null takes it out. Needs no control."""
        return dataclasses.asdict(_kept(lambda file: sheet().label(file, request.label), request.file, "picture"))

    @app.get("/metrics", response_class=Response, **guarded)
    def metrics() -> Response:
        """Return the counters for Prometheus: runs by status, frames, dose, seconds."""
        return Response(desk.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def offered(name: str) -> Any:
        if name not in ("working_distance", "magnification", *desk.microscope.offers):
            raise HTTPException(404, f"this instrument does not offer {name}")
        return desk.microscope

    def add_property(name: str) -> None:
        def read() -> dict[str, Any]:
            return {"value": plain(getattr(offered(name), name))}

        app.get(f"/api/{name}", summary=f"Read {name}", operation_id=f"read_{name}", **guarded)(read)
        if name not in _WRITABLE:
            return

        def write(value: Annotated[_WRITABLE[name], Body(embed=True)], client: InControl) -> dict[str, Any]:  # type: ignore[valid-type]
            offered(name)
            with desk.operating() as microscope:
                setattr(microscope, name, value)
                if name in PLACE:
                    getattr(microscope, name)
            desk.events.publish("place", desk.place)
            return {"value": plain(value)}

        app.put(f"/api/{name}", summary=f"Set {name}", operation_id=f"set_{name}", **guarded)(write)

    def add_method(name: str) -> None:
        kind = _ARGUMENTS.get(name, Annotated[list[Any], Field(max_length=0)])

        def call(arguments: Annotated[kind, Body(embed=True)], client: InControl) -> dict[str, Any]:  # type: ignore[valid-type]
            offered(name)
            with desk.operating() as microscope:
                return {"value": plain(getattr(microscope, name)(*arguments))}

        app.post(f"/api/{name}", summary=f"Call {name}", operation_id=f"call_{name}", **guarded)(call)

    for member in ("working_distance", "magnification", *PROPERTIES):
        add_property(member)
    for member in METHODS:
        if member != "stop":
            add_method(member)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(_PAGE / "index.html", headers={"Content-Security-Policy": _POLICY})

    @app.get("/labels", include_in_schema=False)
    def label_page() -> Response:
        return Response(served_page(), media_type="text/html")

    app.mount("/", StaticFiles(directory=_PAGE))
    return app


def _add_guard(app: FastAPI, any_host: bool) -> None:
    def refusal(request: Request) -> tuple[int, str] | None:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        try:
            here = any_host or urlsplit(f"//{host}").hostname in _LOOPBACK
            same = origin is None or urlsplit(origin).netloc == host
        except ValueError:
            here = same = False
        if not (here and same):
            return 403, "this server is reached as 127.0.0.1 or localhost, and pages of other servers may not use it"
        if "transfer-encoding" in request.headers:
            return 411, "send the length of the request as Content-Length"
        if int(request.headers.get("content-length", 0)) > _MOST_SENT:  # uvicorn has checked that it is a number
            return 413, f"a request has at most {_MOST_SENT} bytes"
        return None

    @app.middleware("http")
    async def guard(request: Request, following: Callable[[Request], Awaitable[Response]]) -> Response:
        """Refuse what a page of another server sends through the browser of somebody who may use this one.

        The request is read whole first: a connection closed before that takes the answer with it. Nothing may be kept
        by a browser: the numbers of frames begin again with every server.
        """
        refused = refusal(request)
        try:
            if refused is None:
                await request.body()
            else:
                discarded = 0
                async for part in request.stream():
                    discarded += len(part)
                    if discarded > _MOST_DISCARDED:
                        break
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        if refused is not None:
            return JSONResponse({"error": "SemDriversError", "message": refused[1]}, refused[0])
        response = await following(request)
        response.headers["Cache-Control"] = "no-store" if request.url.path.startswith("/api/") else "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        return response


def _kept(find: Callable[[Any], Any], name: int | str, what: str) -> Any:
    try:
        return find(name)
    except KeyError:
        raise HTTPException(404, f"there is no {what} {name}, or it is no longer kept") from None


def _seen(seen: Evaluation | None) -> dict[str, Any]:
    if seen is None:
        return {"score": None, "blur": None}
    blur, ellipse = None, seen.ellipse
    if seen.log_blur is not None:
        radii = [
            math.expm1(value) for value in (seen.log_blur, seen.log_blur if ellipse is None else ellipse.log_smaller)
        ]
        blur = {"larger": radii[0], "smaller": radii[1], "direction": None if ellipse is None else ellipse.direction}
    return {"score": seen.score, "blur": blur}


def _number(frame: Frame | None) -> int | None:
    return None if frame is None else frame.number


def _encoded(frame: Frame, kind: str) -> bytes:
    if kind == "tif":
        with tempfile.TemporaryDirectory() as folder:
            return frame.image.save(Path(folder) / "frame.ome.tif").read_bytes()
    from PIL import Image as Pillow

    pixels = frame.image.pixels
    if pixels.dtype != np.uint8:
        low, high = np.percentile(pixels, (0.1, 99.9))
        pixels = np.clip((pixels - low) * (255.0 / max(high - low, 1.0)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG" if kind == "jpg" else "PNG", quality=85)
    return buffer.getvalue()
