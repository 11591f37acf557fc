"""The fault proxy of the tests does to TCP what it says, and stops doing it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.fault.proxy import BLACK_HOLE, REFUSE, RESET, STALL, FaultProxy, Way, cut_after, delay, throttle
from tests.helpers.wait import wait_until


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that sends everything back, and hangs up when the other side has."""
    server = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def talk(connection: socket.socket) -> None:
        with connection:
            try:
                while piece := connection.recv(65_536):
                    connection.sendall(piece)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=talk, args=(connection,), daemon=True))
            threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    accepting.join()
    for thread in threads:
        thread.join()


@pytest.fixture
def proxy(echo: str) -> Iterator[FaultProxy]:
    with FaultProxy(echo) as running:
        yield running


Dial = Callable[..., socket.socket]


@pytest.fixture
def dial(proxy: FaultProxy) -> Iterator[Dial]:
    opened: list[socket.socket] = []

    def connect(*, timeout_s: float = 5.0) -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout_s))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def told(connection: socket.socket, text: bytes = b"hello") -> bytes:
    """Send `text` and return as many bytes of the answer, or fewer when the other side ends."""
    connection.sendall(text)
    return heard(connection, len(text))


def heard(connection: socket.socket, count_bytes: int) -> bytes:
    answer = b""
    while len(answer) < count_bytes and (piece := connection.recv(65_536)):
        answer += piece
    return answer


def is_silent(connection: socket.socket, for_s: float = 0.2) -> bool:
    connection.settimeout(for_s)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(5.0)
    return False


def test_bytes_and_the_end_of_a_connection_pass(dial: Dial, proxy: FaultProxy) -> None:
    connection = dial()
    assert told(connection, b"x" * 200_000) == b"x" * 200_000

    connection.shutdown(socket.SHUT_WR)

    assert connection.recv(1) == b""
    assert proxy.seen.passed_bytes == {Way.UP: 200_000, Way.DOWN: 200_000}
    wait_until(lambda: proxy.open_connections == 0)


def test_a_delay_holds_in_its_direction_only(dial: Dial, proxy: FaultProxy) -> None:
    connection = dial()
    proxy.set(delay(0.2), Way.DOWN)
    began_s = time.monotonic()

    assert told(connection) == b"hello"

    assert 0.2 <= time.monotonic() - began_s < 0.39


def test_stalled_bytes_arrive_when_the_stall_ends(dial: Dial, proxy: FaultProxy) -> None:
    connection = dial()
    proxy.set(STALL, Way.UP)
    connection.sendall(b"hello")
    assert is_silent(connection)
    late = dial()
    late.sendall(b"there")

    proxy.heal()

    assert (heard(connection, 5), heard(late, 5)) == (b"hello", b"there")


def test_a_black_hole_swallows_bytes_and_lets_nobody_connect(dial: Dial, proxy: FaultProxy) -> None:
    speaks, rests = dial(), dial()
    assert (told(speaks), told(rests)) == (b"hello", b"hello")

    proxy.set(BLACK_HOLE)

    speaks.sendall(b"lost")
    assert is_silent(speaks)
    with pytest.raises(TimeoutError):
        dial(timeout_s=0.5)
    proxy.heal()
    assert is_silent(speaks)  # for ever: its bytes are gone
    assert told(rests) == b"hello"
    assert told(dial()) == b"hello"
    assert proxy.seen.swallowed_bytes[Way.UP] == 4


def test_a_connection_that_was_given_up_in_a_black_hole_ends_behind_it_too(dial: Dial, proxy: FaultProxy) -> None:
    connection = dial()
    assert told(connection) == b"hello"
    proxy.set(BLACK_HOLE)
    connection.sendall(b"lost")
    wait_until(lambda: proxy.seen.swallowed_bytes[Way.UP] == 4)
    connection.close()
    assert proxy.open_connections == 1

    proxy.heal()

    wait_until(lambda: proxy.open_connections == 0)


def test_who_waits_in_connect_gets_through_when_the_black_hole_ends(dial: Dial, proxy: FaultProxy) -> None:
    proxy.set(BLACK_HOLE)
    answers: list[bytes] = []
    waiting = threading.Thread(target=lambda: answers.append(told(dial(timeout_s=10.0))))
    waiting.start()

    proxy.heal()

    waiting.join()
    assert answers == [b"hello"]


def test_a_refusing_proxy_resets_what_is_and_refuses_what_comes(dial: Dial, proxy: FaultProxy) -> None:
    connection = dial()
    assert told(connection) == b"hello"

    proxy.set(REFUSE)

    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        dial()
    proxy.heal()
    assert told(dial()) == b"hello"


def test_a_resetting_proxy_resets_what_is_and_what_comes(dial: Dial, proxy: FaultProxy) -> None:
    connection = dial()
    assert told(connection) == b"hello"

    proxy.set(RESET)

    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    with pytest.raises(ConnectionResetError):
        dial().recv(1)
    proxy.heal()
    assert told(dial()) == b"hello"


def test_a_connection_is_cut_after_so_many_bytes_and_only_as_often_as_asked(dial: Dial, proxy: FaultProxy) -> None:
    proxy.set(cut_after(70_000, times=1), Way.DOWN)
    first, second = dial(), dial()

    assert len(told(first, b"x" * 100_000)) == 70_000

    assert len(told(second, b"x" * 100_000)) == 100_000
    assert proxy.seen.cut == 1


def test_a_throttled_connection_passes_so_many_bytes_a_second(dial: Dial, proxy: FaultProxy) -> None:
    connection = dial()
    proxy.set(throttle(100_000), Way.UP)
    began_s = time.monotonic()

    assert len(told(connection, b"x" * 50_000)) == 50_000

    assert 0.4 <= time.monotonic() - began_s < 1.5


def test_an_address_keeps_all_but_host_and_port_when_it_is_led_through(proxy: FaultProxy) -> None:
    led = proxy.through("postgresql+psycopg://me:word@10.0.0.1:5432/name")

    assert led == f"postgresql+psycopg://me:word@127.0.0.1:{proxy.port}/name"
