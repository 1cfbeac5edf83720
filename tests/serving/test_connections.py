"""Clients that are slow, or speak no HTTP."""

import json
import select
import socket
import time

import pytest

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST /v1/models/student:predict HTTP/1.1\r\nHost: x\r\n"
REFUSED = HEAD + b"Content-Type: text/plain\r\n"


def connected(port):
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def rest(connection):
    """All that comes until the server ends the connection, and whether it cut it off."""
    data = b""
    try:
        while chunk := connection.recv(65536):
            data += chunk
    except ConnectionError:
        return data, True
    finally:
        connection.close()
    return data, False


@pytest.mark.parametrize(
    ("first", "then"),
    [(b"", b""), (b"", b"G"), (HEALTH, b"G"), (REFUSED + b"Content-Length: 999\r\n\r\n", b"x")],
    ids=["nothing", "a head", "another head", "a body that is refused"],
)
def test_what_drips_in_for_ever_is_given_up(in_process, first, then):
    port, _, _ = in_process(deadline=0.5)
    connection = connected(port)
    connection.sendall(first)
    began, ended = time.monotonic(), False
    while not ended and time.monotonic() < began + 15:
        if select.select([connection], [], [], 0.1)[0]:
            ended = not connection.recv(65536)
        elif then:
            connection.sendall(then)
    connection.close()
    assert ended and 0.4 < time.monotonic() - began < 10


def test_an_answer_that_nobody_takes_is_given_up(in_process):
    port, _, _ = in_process(deadline=0.5)
    connection, count = connected(port), 4000
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(b"GET /page.js HTTP/1.1\r\nHost: x\r\n\r\n" * count)
    time.sleep(2)
    data, cut_off = rest(connection)
    assert cut_off and data.count(b"HTTP/1.1 200") < count


def test_a_client_that_reads_slowly_but_reads_gets_everything(in_process):
    port, _, _ = in_process(deadline=0.5)
    connection, count = connected(port), 60
    connection.sendall(
        b"GET /page.js HTTP/1.1\r\nHost: x\r\n\r\n" * count
        + HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    )
    data = b""
    for _ in range(10):
        data += connection.recv(20_000)
        time.sleep(0.1)
    more, cut_off = rest(connection)
    assert not cut_off and (data + more).count(b"HTTP/1.1 200") == count + 1


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["TLS", "HTTP/0.9", "a negative length", "no host"],
)
def test_what_is_no_http_is_refused_in_json(in_process, sent):
    port, _, _ = in_process()
    connection = connected(port)
    connection.sendall(sent)
    head, _, body = rest(connection)[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request") and b"application/json" in head.lower()
    assert json.loads(body)["error"] == "Invalid HTTP request received."


def test_a_request_that_breaks_after_its_answer_ends_quietly(in_process, caplog):
    port, _, _ = in_process()
    connection = connected(port)
    connection.sendall(REFUSED + b"Transfer-Encoding: chunked\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 415")
    connection.sendall(b"no chunk\r\n")
    assert rest(connection)[0] == b""
    assert [record for record in caplog.records if record.exc_info] == []


def test_a_client_is_never_sent_to_another_host(in_process):
    port, _, _ = in_process()
    connection = connected(port)
    connection.sendall(b"GET /healthz/ HTTP/1.1\r\nHost: elsewhere\r\nConnection: close\r\n\r\n")
    data = rest(connection)[0]
    assert data.startswith(b"HTTP/1.1 404") and b"elsewhere" not in data
