"""Who may ask a server, and the headers of its answers."""

import pytest

from detseg.serve.guard import HEADERS, host_name, is_local
from tests.serve.served import client_of, image_file


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 400),
        ("evil.example:8000", 400),
        ("127.0.0.1.evil.example", 400),
        ("localhost@evil.example", 400),
        ("evil.example#localhost", 400),
        ("[::1", 400),
        ("", 400),
    ],
)
def test_only_names_of_this_machine_are_answered(host, status):
    reply = client_of().get("/model", headers={"host": host})
    assert reply.status_code == status
    assert status == 200 or "the server is not called so" in reply.json()["error"]


def test_a_server_for_others_answers_to_any_name():
    assert client_of(hosts=None).get("/model", headers={"host": "box.example:8000"}).status_code == 200
    assert client_of(hosts={"box.example"}).get("/model", headers={"host": "Box.example:1"}).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://127.0.0.1:8000", 200),
        ("http://127.0.0.1:9000", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("", 403),
    ],
)
def test_pages_of_other_sites_are_refused(origin, status):
    for hosts in ({"127.0.0.1"}, None):
        headers = {} if origin is None else {"origin": origin}
        reply = client_of(hosts=hosts).post("/predict", content=image_file(), headers=headers)
        assert reply.status_code == status


def test_every_answer_has_the_headers():
    client = client_of()
    replies = [client.get(path) for path in ("/", "/static/page.js", "/docs", "/model", "/nothing")]
    replies += [client.post("/predict", content=b"x"), client.get("/", headers={"host": "evil.example"})]
    replies += [client.post("/predict", content=image_file()), client.head("/")]
    for reply in replies:
        for name, value in HEADERS.items():
            assert reply.headers[name] == value
        assert "access-control-allow-origin" not in reply.headers
    for rule in ("default-src 'self'", "frame-ancestors 'none'", "object-src 'none'"):
        assert rule in HEADERS["Content-Security-Policy"]
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_names_and_addresses_are_told_apart():
    assert [host_name(h) for h in ("a:1", "[::1]:1", "a@b", "[", "", "a:b:c")] == ["a", "::1", "b", "", "", "a"]
    assert all(map(is_local, ("127.0.0.1", "127.8.0.1", "::1", "localhost", "LocalHost")))
    assert not any(map(is_local, ("0.0.0.0", "::", "192.168.1.2", "box", "")))
