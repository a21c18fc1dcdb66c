"""Who may do what in the console: hosts, sessions, roles, forged requests, proxies. The server decides."""

import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.routing import Mount, Route

from tests.support.console import HOST, application_with, browser, sign_in, token_in, users
from worker.config.console_accounts import Role
from worker.console import contract
from worker.console.access import Refused
from worker.console.boundary import Boundary
from worker.console.contract import Action, Console, Done, Export, NotThere, Parameters, Screen
from worker.console.routes import ACTIONS, EXPORTS, SCREENS
from worker.console.throttle import BURST
from worker.postgres.errors import QueryCanceledError
from worker.postgres.failures import DatabaseUnavailable

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin", "Origin": f"http://{HOST}"}
PROXY = {"console_trusted_proxies": "10.0.0.0/8"}
PROXIED = {
    **PROXY,
    "console_users": "",
    "console_proxy_user_header": "X-Forwarded-User",
    "console_proxy_groups_header": "X-Forwarded-Groups",
}


async def _view(_: Console, parameters: Parameters) -> dict[str, Any]:
    if parameters.get("name") == "gone":
        raise NotThere("There is no such thing.")
    return dict(parameters)


async def _perform(_: Console, request: contract.Request) -> Done:
    if request.form.get("refuse"):
        raise Refused(409, "It is handled already.")
    return Done(f"Done by {request.user.name}")


EXAMPLES: dict[str, Any] = {
    "screens": (
        Screen("/overview", Role.READER, "base.html", _view, label="Overview"),
        Screen("/things/{name}", Role.REVEALER, "base.html", _view),
    ),
    "actions": (Action("/things/{name}/change", Role.OPERATOR, _perform),),
}


def _examples(**given: Any) -> Boundary:
    return application_with(given, **EXAMPLES)


def _filled(path: str) -> str:
    return path.replace("{", "").replace("}", "")


async def _post(client: httpx.AsyncClient, path: str, **form: str) -> httpx.Response:
    page = await client.get("/overview")
    return await client.post(path, data={"token": token_in(page.text), **form}, headers=SAME_ORIGIN)


def _all_roles() -> Iterable[str]:
    return ("reader", "operator", "revealer", "operator+revealer")


async def _lines(_: Console, __: Parameters) -> AsyncIterator[str]:
    yield "a line"


# The real table, with views and actions that need no services.
TABLE: dict[str, Any] = {
    "screens": tuple(replace(screen, view=_view, template="base.html") for screen in SCREENS),
    "actions": tuple(replace(action, perform=_perform) for action in ACTIONS),
    "exports": tuple(replace(export, lines=_lines) for export in EXPORTS),
}

# With routes that need more of a reader than the table has.
STRICT: dict[str, Any] = {
    "screens": (*EXAMPLES["screens"], Screen("/live", Role.REVEALER, "base.html", _view, is_live=True)),
    "actions": EXAMPLES["actions"],
    "exports": (Export("/things.csv", Role.REVEALER, "text/csv", _lines),),
}


@pytest.mark.parametrize("granted", _all_roles())
@pytest.mark.parametrize("routes", [TABLE, STRICT], ids=["table", "strict"])
async def test_each_route_needs_the_role_that_the_table_lists(granted: str, routes: dict[str, Any]) -> None:
    """Every role and every route: pages, their data, exports and actions."""
    roles = {Role.READER, *map(Role, granted.split("+"))}
    async with browser(application_with({"console_users": users(anna=granted)}, **routes)) as client:
        await sign_in(client)
        for route in (*routes["screens"], *routes["exports"]):
            for suffix in ("", ".json") if isinstance(route, Screen) else ("",):
                answer = await client.get(f"{_filled(route.path)}{suffix}")
                assert answer.status_code == (200 if route.role in roles else 403), route.path + suffix
        for screen in routes["screens"]:
            if screen.is_live and screen.role not in roles:
                stream = await client.get(_filled(screen.path), params={"live": "1"})
                assert stream.status_code == 403, screen.path
        for action in routes["actions"]:
            answer = await _post(client, _filled(action.path))
            assert answer.status_code == (303 if action.role in roles else 403), action.path


async def test_without_a_session_every_route_is_closed() -> None:
    async with browser(application_with(**TABLE)) as client:
        for screen in SCREENS:
            path = _filled(screen.path)
            answers = [await client.get(address) for address in (path, f"{path}.json", f"{path}?live=1")]
            assert [answer.status_code for answer in answers] == [303, 401, 401], path
            assert answers[0].headers["location"].startswith("/sign-in?next="), path
        for export in EXPORTS:
            answer = await client.get(export.path)
            assert answer.status_code == (401 if export.path.endswith(".json") else 303), export.path
        for action in ACTIONS:
            answer = await client.post(_filled(action.path), data={}, headers=SAME_ORIGIN)
            assert answer.status_code == 401, action.path


async def test_every_change_needs_a_token_and_a_console_that_is_not_read_only() -> None:
    async with browser(application_with(**TABLE)) as client:
        await sign_in(client)
        for action in ACTIONS:
            answer = await client.post(_filled(action.path), data={"reason": "x"}, headers=SAME_ORIGIN)
            assert answer.status_code == 403, action.path
            assert "The page is too old" in answer.text, action.path
    async with browser(application_with({"console_read_only": True}, **TABLE)) as client:
        await sign_in(client)
        for action in ACTIONS:
            answer = await _post(client, _filled(action.path))
            assert answer.status_code == 403, action.path
            assert "The console is read-only" in answer.text, action.path


# What a form of these paths may do is more than to read.
CHANGES = {
    Role.OPERATOR: (
        "/pause",
        "/resume",
        "/repair",
        "/replay",
        "/discard",
        "/cancel",
        "/test",
        "/retry",
        "/close",
    ),
    Role.REVEALER: ("/reveal", "/edit", "/edit/check", "/edit/save"),
}


def test_the_table_gives_readers_no_action_and_operators_no_personal_data() -> None:
    """A second statement of the table: a role that is changed there by mistake fails here."""
    expected = {path: role for role, paths in CHANGES.items() for path in paths} | {"/dry-run": Role.OPERATOR}
    for action in ACTIONS:
        [role] = {role for path, role in expected.items() if action.path.endswith(path)}
        assert action.role == role, action.path
    assert {screen.role for screen in SCREENS} == {export.role for export in EXPORTS} == {Role.READER}


def test_every_route_is_in_the_table_or_public() -> None:
    app = application_with()
    routes = {route.path for route in app._app.routes if isinstance(route, Route | Mount)}  # type: ignore[attr-defined]
    listed = {screen.path for screen in SCREENS} | {f"{screen.path}.json" for screen in SCREENS}
    listed |= {export.path for export in EXPORTS}

    assert routes == listed | {action.path for action in ACTIONS} | {"/", "/sign-in", "/sign-out", "/static"}


@pytest.mark.parametrize("path", ["/overview", "/things/x"])
async def test_without_a_session_a_page_leads_to_the_sign_in_and_back(path: str) -> None:
    async with browser(_examples()) as client:
        answer = await client.get(path)
        data = await client.get(f"{path}.json")

    assert (answer.status_code, answer.headers["location"]) == (
        303,
        f"/sign-in?next={path.replace('/', '%2F')}",
    )
    assert (data.status_code, data.json()) == (401, {"error": "Sign in first."})


@pytest.mark.parametrize("next_path", ["//evil.example", "https://evil.example", "/\\evil.example", "evil"])
async def test_the_sign_in_leads_to_no_other_host(next_path: str) -> None:
    async with browser(_examples()) as client:
        page = await client.get("/sign-in", params={"next": next_path})
        answer = await client.post(
            "/sign-in",
            data={"name": "anna", "password": "correct-horse-battery", "next": next_path},
            headers=SAME_ORIGIN,
        )

    assert 'name="next" value="/overview"' in page.text
    assert answer.headers["location"] == "/overview"


async def test_a_wrong_name_and_a_wrong_password_have_the_same_answer() -> None:
    async with browser(_examples()) as client:
        answers = [await sign_in(client, "anna", "wrong"), await sign_in(client, "nobody", "wrong")]

    assert {answer.status_code for answer in answers} == {401}
    assert all("The name or the password is wrong." in answer.text for answer in answers)
    assert not any("set-cookie" in answer.headers for answer in answers)


async def test_attempts_to_sign_in_are_throttled() -> None:
    async with browser(_examples()) as client:
        statuses = [(await sign_in(client, "anna", "wrong")).status_code for _ in range(BURST)]
        throttled = await sign_in(client, "anna")
        other = await sign_in(client, "rita")

    assert set(statuses) == {401}
    assert throttled.status_code == other.status_code == 429, "by name, and by address"
    assert int(throttled.headers["retry-after"]) > 0


async def test_the_cookie_is_for_the_server_alone_and_signing_out_ends_the_session() -> None:
    async with browser(_examples()) as client:
        answer = await sign_in(client)
        cookie = answer.headers["set-cookie"]
        secret = client.cookies["stockhook_console"]
        assert (await client.get("/overview")).status_code == 200
        assert (await _post(client, "/sign-out")).status_code == 303
        client.cookies.set("stockhook_console", secret)
        after = await client.get("/overview")

    assert cookie.startswith("stockhook_console=")
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "Secure" not in cookie
    assert after.status_code == 303, "the session ended on the server"


async def test_behind_tls_the_cookie_is_secure_and_bound_to_the_host() -> None:
    app = _examples(**PROXY)
    async with browser(app, "10.0.0.1", **{"X-Forwarded-Proto": "https"}) as client:
        cookie = (await sign_in(client)).headers["set-cookie"]

    assert cookie.startswith("__Host-stockhook_console=")
    assert {"Secure", "HttpOnly", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "Domain" not in cookie


async def test_a_session_from_plain_http_is_not_used_behind_tls() -> None:
    app = _examples(**PROXY)
    async with browser(app, "10.0.0.1") as client:
        await sign_in(client)
        answer = await client.get("/overview", headers={"X-Forwarded-Proto": "https"})

    assert answer.status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": f"http://{HOST}.evil.example"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
    ],
)
async def test_a_form_from_elsewhere_changes_nothing(headers: dict[str, str]) -> None:
    async with browser(_examples()) as client:
        assert (await client.post("/sign-in", data={"name": "anna"}, headers=headers)).status_code == 403
        await sign_in(client)
        token = token_in((await client.get("/overview")).text)
        answer = await client.post("/things/x/change", data={"token": token}, headers=headers)

    assert answer.status_code == 403


async def test_links_to_the_data_keep_the_filters_of_the_page() -> None:
    async with browser(_examples()) as client:
        answer = await client.get("/overview", params={"family": "a&b", "live": ""})
        await sign_in(client)
        page = await client.get("/overview", params={"family": "a&b"})

    assert answer.status_code == 401, "a stream leads nowhere else"
    assert 'href="/overview.json?family=a%26b"' in page.text


@pytest.mark.parametrize("token", [None, "", "0" * 128])
async def test_a_form_without_the_sessions_token_changes_nothing(token: str | None) -> None:
    form = {"back": "/overview"} | ({} if token is None else {"token": token})
    async with browser(_examples()) as client:
        await sign_in(client)
        answer = await client.post("/things/x/change", data=form, headers=SAME_ORIGIN)
        other = await client.post("/sign-out", data=form, headers=SAME_ORIGIN)
        still = await client.get("/overview")

    assert (answer.status_code, other.status_code, still.status_code) == (403, 403, 200)


async def test_a_token_of_another_session_is_refused() -> None:
    app = _examples()
    async with browser(app) as anna, browser(app) as rita:
        await sign_in(anna)
        await sign_in(rita, "rita")
        token = token_in((await rita.get("/overview")).text)
        answer = await anna.post("/things/x/change", data={"token": token}, headers=SAME_ORIGIN)

    assert answer.status_code == 403


async def test_an_action_answers_with_a_sentence_on_the_page_that_the_form_was_on() -> None:
    async with browser(_examples()) as client:
        await sign_in(client)
        answer = await _post(client, "/things/x/change", back="/things/x")
        shown = await client.get("/overview")
        again = await client.get("/overview")
        refused = await _post(client, "/things/x/change", back="//evil.example", refuse="yes")
        reason = await client.get("/overview")

    assert (answer.status_code, answer.headers["location"]) == (303, "/things/x")
    assert "Done by anna" in shown.text
    assert "Done by anna" not in again.text
    assert refused.headers["location"] == "/overview"
    assert "It is handled already." in reason.text


async def test_an_action_needs_post_and_a_form() -> None:
    async with browser(_examples()) as client:
        await sign_in(client)
        got = await client.get("/things/x/change")
        sent = await client.post("/things/x/change", json={}, headers=SAME_ORIGIN)
        long = await client.post("/things/x/change", data={"x": "y" * 1_100_000}, headers=SAME_ORIGIN)

    assert (got.status_code, sent.status_code, long.status_code) == (405, 415, 413)


async def test_a_read_only_console_refuses_every_change() -> None:
    async with browser(_examples(console_read_only=True)) as client:
        await sign_in(client)
        answer = await _post(client, "/things/x/change")
        out = await _post(client, "/sign-out")

    assert answer.status_code == 403
    assert "read-only" in answer.text
    assert out.status_code == 303, "signing out changes nothing of the pipeline"


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "", "[::2]", "a b", "%2Flocalhost"]
)
async def test_a_foreign_host_is_refused(host: str) -> None:
    async with browser(_examples()) as client:
        answer = await client.get("/sign-in", headers={"Host": host})
        alive = await client.get("/livez", headers={"Host": host})

    assert answer.status_code == 421
    assert (alive.status_code, alive.text) == (200, "alive\n"), "a probe knows only the address"


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:8081", "[::1]:8081", "Console.Example.com", "10.1.2.3"]
)
async def test_the_console_answers_under_its_own_names(host: str) -> None:
    async with browser(_examples(console_hosts="console.example.com,10.1.2.3")) as client:
        assert (await client.get("/sign-in", headers={"Host": host})).status_code == 200


async def test_plain_http_is_for_this_machine_and_trusted_proxies() -> None:
    app = _examples(**PROXY)
    statuses = []
    for peer in ("127.0.0.1", "10.0.0.1", "192.0.2.1"):
        async with browser(app, peer) as client:
            statuses.append((await client.get("/sign-in")).status_code)

    assert statuses == [200, 200, 403]


@pytest.mark.parametrize(
    "path", ["/sign-in", "/overview", "/nowhere", "/static/console.css", "/livez", "/overview.json"]
)
async def test_every_answer_has_the_security_headers(path: str) -> None:
    async with browser(_examples()) as client:
        answer = await client.get(path)

    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for directive in ("script-src 'self'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert directive in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert ("immutable" in answer.headers["cache-control"]) == path.startswith("/static/")
    assert path.startswith("/static/") or answer.headers["cache-control"] == "no-store"


async def test_a_trusted_proxy_names_the_user_and_the_groups() -> None:
    headers = {"X-Forwarded-User": "anna@example.com", "X-Forwarded-Groups": "/stockhook-operator, other"}
    async with browser(_examples(**PROXIED), "10.0.0.1", **headers) as client:
        page = await client.get("/overview")
        changed = await client.post(
            "/things/x/change", data={"token": token_in(page.text)}, headers=SAME_ORIGIN
        )
        secret = await client.get("/things/x.json")

    assert "anna@example.com" in page.text
    assert "Sign out" not in page.text, "the proxy would sign in again"
    assert changed.status_code == 303
    assert secret.status_code == 403


@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        ("127.0.0.1", {"X-Forwarded-User": "anna", "X-Forwarded-Groups": "stockhook-reader"}, 401),
        ("10.0.0.1", {"X-Forwarded-Groups": "stockhook-reader"}, 401),
        ("10.0.0.1", {"X-Forwarded-User": "anna", "X-Forwarded-Groups": "operator,admins"}, 403),
        ("10.0.0.1", {"X-Forwarded-User": "anna"}, 403),
        ("10.0.0.1", {"X-Forwarded-User": " ", "X-Forwarded-Groups": "stockhook-reader"}, 403),
    ],
)
async def test_headers_about_users_count_from_trusted_proxies_and_when_they_are_clear(
    peer: str, headers: dict[str, str], status: int
) -> None:
    async with browser(_examples(**PROXIED), peer, **headers) as client:
        assert (await client.get("/overview.json")).status_code == status


async def test_two_names_of_a_user_are_none() -> None:
    async with browser(_examples(**PROXIED), "10.0.0.1") as client:
        names = [("X-Forwarded-User", name) for name in ("anna", "root")]
        groups = ("X-Forwarded-Groups", "stockhook-reader")
        answer = await client.get("/overview.json", headers=[*names, groups])

    assert answer.status_code == 403


async def test_what_is_not_there_is_a_page_that_says_so() -> None:
    async with browser(_examples()) as client:
        await sign_in(client)
        gone = await client.get("/things/gone")
        data = await client.get("/things/gone.json")
        nowhere = await client.get("/nowhere")

    assert (gone.status_code, nowhere.status_code) == (404, 404)
    assert "There is no such thing." in gone.text
    assert data.json() == {"error": "There is no such thing."}


async def test_what_a_screen_needs_and_cannot_reach_is_named() -> None:
    async def view(_: Console, __: Parameters) -> object:
        raise DatabaseUnavailable("starting")

    screens = (Screen("/overview", Role.READER, "base.html", view),)
    async with browser(application_with(screens=screens)) as client:
        await sign_in(client)
        page = await client.get("/overview")
        data = await client.get("/overview.json")

    assert (page.status_code, data.status_code) == (503, 503)
    assert data.json() == {"error": "cannot reach the database (starting): see STOCKHOOK_DATABASE_URL"}
    assert "cannot reach the database (starting)" in page.text


async def test_what_takes_too_long_is_a_sentence() -> None:
    async def view(_: Console, __: Parameters) -> object:
        raise QueryCanceledError("canceling statement due to statement timeout")

    screens = (Screen("/overview", Role.READER, "base.html", view),)
    async with browser(application_with(screens=screens)) as client:
        await sign_in(client)
        data = await client.get("/overview.json")

    assert data.status_code == 503
    assert data.json() == {"error": "The database took too long for this: narrow it, or repeat it later."}


@pytest.mark.parametrize("prefix", ["/stockhook", ""])
async def test_a_base_path_is_in_every_url_whether_the_proxy_removes_it_or_not(prefix: str) -> None:
    async with browser(_examples(console_base_path="/stockhook")) as client:
        first = await client.get(f"{prefix}/")
        page = await client.get(f"{prefix}/sign-in")
        style = await client.get(f"{prefix}/static/console.css")
        answer = await client.post(
            f"{prefix}/sign-in",
            data={"name": "anna", "password": "correct-horse-battery", "next": "/overview"},
            headers=SAME_ORIGIN,
        )

    paths = re.findall(r'(?:href|src|action)="([^"]*)"', page.text)
    assert first.headers["location"] == answer.headers["location"] == "/stockhook/overview"
    assert style.status_code == 200
    assert len(paths) > 4
    assert all(path.startswith(("/stockhook/", "#")) for path in paths), paths
