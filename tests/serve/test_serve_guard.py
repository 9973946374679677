"""Who may ask the server, and that no request reaches more than the index."""

from __future__ import annotations

import pytest

from tests.serve.conftest import HOSTILE, told
from vatt.serve import guard
from vatt.serve.app import Settings, build_app

testclient = pytest.importorskip("starlette.testclient")


def test_the_page_and_its_parts_come_with_a_policy(client):
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-security-policy"] == guard.PAGE_POLICY
    assert "unsafe" not in guard.PAGE_POLICY
    assert "http" not in page.text.replace("http-equiv", "")  # nothing is loaded from elsewhere
    for name in ("page.js", "style.css", "icon.svg", "parts.js", "cards.js", "player.js", "map.js"):
        part = client.get(f"/static/{name}")
        assert part.status_code == 200
        assert part.headers["x-content-type-options"] == "nosniff"
        assert "//cdn" not in part.text
    for name in ("nosuch.js", "..%2f__init__.py", "%2e%2e/app.py", "app.py"):
        assert client.get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/media/99",
            "/media/-1",
            "/media/1e3",
            "/media/film.mp4",
            "/media/..%2f..%2fetc%2fpasswd",
            "/media//etc/passwd",
        ),
        *("/media/%00", "/media/" + "9" * 400, "/poster/99999", "/shape/" + "9" * 40, "/api/moments/77", "/etc/passwd"),
        *(
            "/media/0/../../etc/passwd",
            "/docs",
            "/openapi.json",
            "/api/map?by=../x",
            "/static/",
            "/api/moment/12345678",
        ),
    ],
)
def test_no_path_leads_out_of_the_index(client, path):
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert b"root:" not in answer.content


def test_other_methods_are_refused(client):
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        assert client.request(method, "/media/0").status_code == 405
    assert client.get("/api/upload").status_code == 405


def test_names_are_numbers_outside_and_harmless_inside(client, served):
    item = told(client.get(f"/api/moments/{served.turned}"))
    assert "\u202e" not in item["name"]
    assert "\x1b" not in item["name"]
    hostile = told(client.get(f"/api/moments/{served.hostile}"))
    assert hostile["name"] == HOSTILE  # text, which the page shows as text
    assert hostile["folder"] == "holiday/2024"
    assert len(hostile["moments"]) >= 1


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        ({"host": "localhost:8350"}, True),
        ({"host": "[::1]:8350"}, True),
        ({"host": "films.example"}, True),  # --allow-host
        ({"host": "evil.example:8350"}, False),
        ({"host": "127.0.0.1.evil.example"}, False),
        ({"host": "192.168.0.9:8350"}, False),
        ({"host": "localhost:8350@evil.example"}, False),
        ({"host": ""}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://127.0.0.1:9999"}, False),
        ({"origin": "http://127.0.0.1:8350"}, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, False),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, False),
    ],
)
def test_only_this_page_may_ask(served, headers, passes):
    local = testclient.TestClient(
        build_app(served.index, "x", Settings(names=("films.example",))), "http://127.0.0.1:8350"
    )
    for path in ("/api/collection", f"/media/{served.film}"):
        answer = local.get(path, headers=headers)
        assert answer.status_code == (200 if passes else 403)
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_link_elsewhere_may_open_the_page_and_an_open_server_has_its_addresses(served):
    local = testclient.TestClient(build_app(served.index, "x"), "http://127.0.0.1:8350")
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert local.get("/", headers=link).status_code == 200
    assert local.get("/", headers=link | {"sec-fetch-mode": "cors"}).status_code == 403
    wide = testclient.TestClient(build_app(served.index, "x", Settings("0.0.0.0")), "http://192.168.0.9:8350")
    assert wide.get("/").status_code == 200
    assert wide.get("/", headers={"host": "evil.example:8350"}).status_code == 403
