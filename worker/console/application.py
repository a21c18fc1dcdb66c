"""The web application: the routes of the table, guarded, and what they answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from worker.config.console_accounts import Role
from worker.console import contract
from worker.console.access import (
    Access,
    Refused,
    SignInNeeded,
    read_form,
    require,
    require_own_origin,
)
from worker.console.boundary import Boundary
from worker.console.contract import Action, Console, Done, Elsewhere, Export, NotThere, Screen, Shown
from worker.console.live import LiveRegions
from worker.console.poller import NoSnapshot
from worker.console.rendering import STATIC, Renderer
from worker.console.routes import ACTIONS, EXPORTS, SCREENS
from worker.console.sessions import Notice, Session
from worker.observability.errors import StockhookError, reason_of
from worker.observability.inert_text import json_text
from worker.postgres.errors import PostgresError, QueryCanceledError

log = structlog.get_logger(__name__)

HOME = SCREENS[0].path

# The query that requests the stream of a live screen.
LIVE = "live"

TOO_SLOW = "The database took too long for this: narrow it, or repeat it later."

Answer = Callable[[Request, Session], Awaitable[Response]]


def application(
    console: Console,
    stopping: asyncio.Event,
    screens: tuple[Screen, ...] = SCREENS,
    actions: tuple[Action, ...] = ACTIONS,
    exports: tuple[Export, ...] = EXPORTS,
) -> Boundary:
    """The console as an ASGI application; tests give it other screens, actions and exports."""
    pages = _Pages(console, Access(console.settings), screens, stopping)
    guarded: list[Route | Mount] = []
    for screen in screens:
        guarded.append(_get(screen.path, pages.guarded(screen.role, partial(pages.show, screen))))
        guarded.append(_get(f"{screen.path}.json", pages.guarded(screen.role, partial(pages.data, screen))))
    guarded += [
        _get(export.path, pages.guarded(export.role, partial(pages.export, export))) for export in exports
    ]
    guarded += [
        Route(action.path, pages.guarded_post(action.role, partial(pages.perform, action)), methods=["POST"])
        for action in actions
    ]
    app = Starlette(
        routes=[
            _get("/", pages.home),
            _get("/sign-in", pages.sign_in_form),
            Route("/sign-in", pages.sign_in, methods=["POST"]),
            Route(
                "/sign-out", pages.guarded_post(Role.READER, pages.sign_out, changes=False), methods=["POST"]
            ),
            Mount("/static", _Static(directory=STATIC)),
            # Twins first: a parameter of a path would take the suffix.
            *sorted(guarded, key=lambda route: not route.path.endswith((".json", ".csv"))),
        ],
        middleware=[Middleware(GZipMiddleware, minimum_size=1024)],
        exception_handlers={
            Refused: pages.refused,
            NotThere: pages.not_there,
            NoSnapshot: pages.no_snapshot,
            StockhookError: pages.unavailable,
            PostgresError: pages.unavailable,
            HTTPException: pages.http_error,
            Exception: pages.failed,
        },
    )
    return Boundary(app, console.settings)


def _get(path: str, answer: Callable[[Request], Awaitable[Response]]) -> Route:
    return Route(path, answer, methods=["GET"])


class _Static(StaticFiles):
    """Files whose address changes with their content."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


@dataclass(slots=True)
class _Pages:
    console: Console
    access: Access
    screens: tuple[Screen, ...]
    stopping: asyncio.Event
    _renderer: Renderer = field(init=False)
    _live: LiveRegions = field(init=False)

    def __post_init__(self) -> None:
        settings = self.console.settings
        elsewhere = {
            "trace_id": settings.trace_url,
            "queue": settings.console_queue_url,
            "family": settings.console_dashboard_url,
            "gateway_event": settings.console_gateway_event_url,
        }
        self._renderer = Renderer(settings.console_base_path, elsewhere)
        self._live = LiveRegions(self.console, self.access, self._renderer, self.stopping)

    # Guards

    def guarded(self, role: Role, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        """For reading: a session with the role."""

        async def guard(request: Request) -> Response:
            session = self.access.session(request)
            require(session, role)
            return await answer(request, session)

        return guard

    def guarded_post(
        self, role: Role, answer: Answer, *, changes: bool = True
    ) -> Callable[[Request], Awaitable[Response]]:
        """For changes: also the origin and the token of a form of this session, and no read-only mode."""

        async def guard(request: Request) -> Response:
            session = self.access.session(request)
            require_own_origin(request)
            request.state.form = await read_form(request)
            if not session.accepts(request.state.form.get("token", "")):
                raise Refused(403, "The page is too old: load it again, and repeat the change.")
            require(session, role)
            if changes and self.console.settings.console_read_only:
                raise Refused(403, "The console is read-only (STOCKHOOK_CONSOLE_READ_ONLY).")
            return await answer(request, session)

        return guard

    # Screens

    async def home(self, _: Request) -> Response:
        return self._redirect(HOME)

    async def show(self, screen: Screen, request: Request, session: Session) -> Response:
        if screen.is_live and LIVE in request.query_params:
            return self._live.stream(screen, _parameters(request), request, session)
        view = await screen.view(self.console, _parameters(request))
        if isinstance(view, Elsewhere):
            return self._redirect(view.path)
        query = urlencode(_own_query(request))
        context = {
            **self._context(request, session),
            "view": view,
            "roles": session.user.roles,
            "live_path": _with_query(self._path(request), f"{query}&{LIVE}=1") if screen.is_live else None,
            "json_path": _with_query(f"{self._path(request)}.json", query),
        }
        return HTMLResponse(self._renderer.page(screen.template, context))

    async def data(self, screen: Screen, request: Request, _: Session) -> Response:
        view = await screen.view(self.console, _parameters(request))
        return _json(200, view.view if isinstance(view, Elsewhere) else view)

    async def export(self, export: Export, request: Request, session: Session) -> Response:
        lines = export.lines(self.console, _parameters(request))
        # What is refused or cannot be reached is an answer of its own.
        first = await anext(lines, "")

        async def parts() -> AsyncIterator[str]:
            yield first
            async for part in lines:
                yield part

        name = export.path.rpartition("/")[2]
        log.info("console.exported", export=export.path, user=session.user.name)
        return StreamingResponse(
            parts(),
            media_type=export.media_type,
            headers={"Content-Disposition": f'attachment; filename="stockhook-{name}"'},
        )

    # Actions

    async def perform(self, action: Action, request: Request, session: Session) -> Response:
        form: dict[str, str] = request.state.form
        back = _local(form.get("back", ""))
        wanted = contract.Request(session.user, _parameters(request), form)
        refusal: Refused | None = None
        done: Done | Shown
        try:
            done = await action.perform(self.console, wanted)
        except Refused as error:
            refusal, done = error, Done(str(error))
        log.info(
            "console.action",
            action=action.path,
            parameters=dict(request.path_params),
            user=session.user.name,
            refused=None if refusal is None else str(refusal),
        )
        if isinstance(done, Shown):
            context = {**self._context(request, session), "view": done.view, "roles": session.user.roles}
            return HTMLResponse(self._renderer.page(done.template, context))
        session.notice = Notice(done.sentence, is_refusal=refusal is not None)
        return self._redirect(done.path or back)

    # Signing in and out

    async def sign_in_form(self, request: Request) -> Response:
        return self._sign_in_page(request, 200, "", request.query_params.get("next", ""))

    async def sign_in(self, request: Request) -> Response:
        require_own_origin(request)
        form = await read_form(request)
        try:
            secret = await self.access.sign_in(request, form.get("name", ""), form.get("password", ""))
        except Refused as refusal:
            page = self._sign_in_page(request, refusal.status, str(refusal), form.get("next", ""))
            page.headers.update(refusal.headers)
            return page
        response = self._redirect(_local(form.get("next", "")))
        self.access.set_cookie(request, response, secret)
        return response

    async def sign_out(self, request: Request, session: Session) -> Response:
        response = self._redirect("/sign-in")
        self.access.sign_out(request, response)
        log.info("console.signed_out", user=session.user.name)
        return response

    def _sign_in_page(self, request: Request, status: int, fault: str, next_path: str) -> Response:
        context = {
            **self._context(request, None),
            "fault": fault,
            "next_path": _local(next_path),
            "has_accounts": self.access.has_accounts,
        }
        return HTMLResponse(self._renderer.page("sign_in.html", context), status)

    # Errors

    async def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        if isinstance(error, SignInNeeded) and request.method == "GET" and not _wants_data(request):
            wanted = _with_query(self._path(request, below_base=False), urlencode(_own_query(request)))
            return self._redirect(f"/sign-in?{urlencode({'next': wanted})}")
        return self._error(request, error.status, str(error), error.headers)

    async def not_there(self, request: Request, error: Exception) -> Response:
        return self._error(request, 404, str(error))

    async def no_snapshot(self, request: Request, _: Exception) -> Response:
        sentence = "The console has just started, and has no numbers yet: load the page again."
        return self._error(request, 503, sentence, {"Retry-After": "1"})

    async def unavailable(self, request: Request, error: Exception) -> Response:
        """The broker or the database, or what else a screen works with."""
        reason = reason_of(error)
        log.warning("console.unavailable", path=request.scope["path"], reason=reason)
        sentence = TOO_SLOW if isinstance(error, QueryCanceledError) else reason
        return self._error(request, 503, sentence, {"Retry-After": "5"})

    async def http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentence = f"{HTTPStatus(error.status_code).phrase}."
        if error.status_code == HTTPStatus.NOT_FOUND:
            sentence = "There is no such page."
        return self._error(request, error.status_code, sentence, error.headers)

    async def failed(self, request: Request, error: Exception) -> Response:
        """Starlette raises the error again afterwards, and the server logs it."""
        return self._error(request, 500, "The console failed. Its log has the reason.")

    def _error(
        self, request: Request, status: int, sentence: str, headers: Mapping[str, str] | None = None
    ) -> Response:
        if _wants_data(request):
            return _json(status, {"error": sentence}, headers)
        try:
            session: Session | None = self.access.session(request)
        except Refused:
            session = None
        context = {**self._context(request, session), "status": status, "sentence": sentence}
        return HTMLResponse(self._renderer.page("error.html", context), status, headers)

    # Parts of pages

    def _context(self, request: Request, session: Session | None) -> dict[str, Any]:
        return {
            "user": None if session is None else session.user,
            "token": (token := "" if session is None else session.form_token()),
            # What the form of an action needs.
            "page": {
                "token": token,
                "back": _with_query(self._path(request, below_base=False), urlencode(_own_query(request))),
                "roles": frozenset() if session is None else session.user.roles,
                "is_read_only": self.console.settings.console_read_only,
            },
            "notice": None if session is None else session.take_notice(),
            "here": self._path(request, below_base=False),
            "screens": [screen for screen in self.screens if screen.label],
            "is_read_only": self.console.settings.console_read_only,
            "live_path": None,
            "json_path": None,
        }

    def _redirect(self, path: str) -> Response:
        return RedirectResponse(self._renderer.path(path), HTTPStatus.SEE_OTHER)

    def _path(self, request: Request, *, below_base: bool = True) -> str:
        path = quote(request.scope["path"])
        return self._renderer.path(path) if below_base else path


def _parameters(request: Request) -> dict[str, str]:
    """The query and the parts of the path; these cannot be replaced by the query."""
    return {**_own_query(request), **request.path_params}


def _with_query(path: str, query: str) -> str:
    return f"{path}?{query.lstrip('&')}" if query else path


def _own_query(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.query_params.items() if name != LIVE}


def _local(path: str) -> str:
    """A path of the console, or its first page: a form must not lead to another host."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_local else HOME


def _wants_data(request: Request) -> bool:
    return request.scope["path"].endswith(".json") or LIVE in request.query_params


def _json(status: int, value: object, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_text(value), status, headers, "application/json")
