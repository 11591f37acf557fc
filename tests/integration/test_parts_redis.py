"""Redis or Valkey as a child process."""

from pathlib import Path

import pytest
import redis

from hashmill.parts.process import PartFailed, free_ports
from hashmill.parts.redis import Redis, start_redis
from tests.helpers.servers import work_folder


def test_it_answers_ping(redis_server: Redis) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.ping()


def test_after_a_restart_it_is_empty_and_at_the_same_address() -> None:
    with work_folder("redis") as folder, start_redis(folder) as server, redis.Redis.from_url(server.url) as client:
        client.set("a", "1")
        before = server.url
        server.restart()

        assert server.url == before
        assert client.dbsize() == 0


def test_it_comes_back_after_a_kill() -> None:
    with work_folder("redis") as folder, start_redis(folder) as server, redis.Redis.from_url(server.url) as client:
        server.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.restart()

        assert client.ping()


def test_a_port_that_is_taken_is_said_with_the_servers_own_words(redis_server: Redis, tmp_path: Path) -> None:
    with pytest.raises(PartFailed, match=r"(?s)redis ended by itself with status 1.*[Aa]ddress already in use"):
        start_redis(tmp_path, port=redis_server.port)


def test_free_ports_are_free_and_different() -> None:
    assert len(set(free_ports(50))) == 50
    span = free_ports(20, in_a_row=True)
    assert span == list(range(span[0], span[0] + 20))
