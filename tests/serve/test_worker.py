"""One prediction at a time; who waits, who is refused, and what takes too long."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from detseg.serve.app import create_app
from detseg.serve.limits import Limits
from tests.serve.served import Blocked, Told, client_of, image_file, running


def until(true):
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def threads():
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_one_is_predicted_one_waits_and_the_third_is_refused(threads):
    model = Blocked()
    with client_of(model, limits=Limits(waiting=1)) as client:

        def ask():
            return client.post("/predict", content=image_file())

        first = threads.submit(ask)
        assert model.looking.acquire(timeout=5)
        second = threads.submit(ask)
        until(lambda: client.get("/health").json()["requests"] == 2)
        third = ask()
        assert third.status_code == 503 and third.headers["retry-after"] == "2"
        assert third.json() == {"error": "2 other requests are being worked on; try again in a moment"}
        assert not model.looking.acquire(blocking=False)  # the second waits
        model.go.set()
        assert [first.result().status_code, second.result().status_code] == [200, 200]
        until(lambda: client.get("/health").json()["requests"] == 0)
        assert ask().status_code == 200


def test_what_takes_too_long_is_given_up_and_its_place_is_free_when_it_has_ended(threads):
    model = Blocked()
    with client_of(model, limits=Limits(waiting=1, seconds=0.1)) as client:
        replies = [threads.submit(client.post, "/predict", content=image_file()) for _ in range(2)]
        for reply in replies:
            assert reply.result().status_code == 504
            assert reply.result().json() == {"error": "there was no result within 0.1 seconds; send a smaller image"}
        assert client.get("/health").json()["requests"] == 1  # who waited has left, the thread still works
        model.go.set()
        until(lambda: client.get("/health").json()["requests"] == 0)
        assert len(model.shapes) == 1
        assert client.post("/predict", content=image_file()).status_code == 200


def test_nothing_leaves_a_place_taken():
    client = client_of(limits=Limits(waiting=0, bytes=50_000))
    for _ in range(3):
        assert client.post("/predict", content=b"no image").status_code == 415
        assert client.post("/predict", content=bytes(60_000)).status_code == 413
        assert client.post("/predict", content=image_file()).status_code == 200
    assert client.get("/health").json()["requests"] == 0


def exchange(address, *parts, wait=0.0):
    """What a server answers to bytes on a connection."""
    with socket.create_connection(address, timeout=5) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(wait)
        answer = b""
        while not (b"\r\n\r\n" in answer and answer.endswith(b"}")) and (more := connection.recv(65536)):
            answer += more
    return answer


def head(length, path="/predict", more=""):
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n{more}\r\n"
    ).encode()


def test_a_real_server_answers_what_is_slow_large_or_odd():
    model = Told()
    with running(create_app(model, limits=Limits(seconds=0.3, bytes=100_000))) as address:
        content = image_file()
        assert b'"objects"' in exchange(address, head(len(content)), content)
        slow = exchange(address, head(1000), b"\x89PNG")
        assert slow.startswith(b"HTTP/1.1 408") and b"did not arrive within 0.3 seconds" in slow
        # Sent to its end before the answer is read, as many clients do.
        large = exchange(address, head(300_000), bytes(300_000))
        assert large.startswith(b"HTTP/1.1 413") and b"larger than 0.1 MB" in large
        unknown = exchange(address, head(300_000, "/predict?x=1"), bytes(300_000))
        assert unknown.startswith(b"HTTP/1.1 400") and b"no option" in unknown
        assert exchange(address, b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 60_000).startswith(b"HTTP/1.1 400")
        assert exchange(address, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert exchange(address, b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n").startswith(b"HTTP/1.1 400")
        with socket.create_connection(address) as gone:
            gone.sendall(head(1000))
        assert b'"objects"' in exchange(address, head(len(content)), content)
