"""The kernel's C on another kind of CPU, played by qemu, against hashlib: skipped where the tools are not there.

apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
"""

import hashlib
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashmill.hashing import libcrypto, saved
from hashmill.hashing.fused_check import BITS, EDGES
from hashmill.hashing.native.compile import SOURCES

CASES = 400
STRICT = ("-std=c11", "-O3", "-Wall", "-Wextra", "-Werror", "-static")
MACHINES = {"this machine": ("gcc",), "aarch64": ("aarch64-linux-gnu-gcc", "qemu-aarch64")}


def cases() -> Iterator[tuple[int, list[list[bytes]]]]:
    """Yield masks, and the blocks of each stream."""
    chance = random.Random(20_260)
    for _ in range(CASES):
        rounds = chance.randint(1, 4)
        streams = [[b""] * rounds for _ in range(chance.choice((1, 1, 2, 3, 4, 8)))]
        for blocks in streams:
            for number in range(rounds):
                edge = chance.random() < 0.4
                blocks[number] = chance.randbytes(chance.choice(EDGES) if edge else chance.randint(0, 3000))
        yield chance.randint(1, 7), streams


def question(mask: int, streams: list[list[bytes]]) -> bytes:
    rounds = zip(*streams, strict=True)
    told = b"".join(len(block).to_bytes(4, "little") + block for blocks in rounds for block in blocks)
    return bytes([mask, len(streams), len(streams[0])]) + told


def lines(mask: int, streams: list[list[bytes]]) -> Iterator[str]:
    """Yield what the program must say of a case: the state as libcrypto's would be, and hashlib's digests."""
    names = [name for name, bit in BITS.items() if mask & bit]
    for blocks in streams:
        states = {}
        for name in names:
            hasher = libcrypto.Classic(name)
            hasher.update(b"".join(blocks))
            states[name] = hasher.export()
        digests = [hashlib.new(name, b"".join(blocks), usedforsecurity=False).hexdigest() for name in names]
        yield " ".join([saved._joined(states).hex(), *digests])


@pytest.mark.skipif(not all(map(libcrypto.available, BITS)), reason="no states of libcrypto to compare with")
@pytest.mark.parametrize("machine", MACHINES)
def test_on_any_machine_the_digests_are_hashlibs_and_the_states_those_of_every_other(
    machine: str, tmp_path: Path
) -> None:
    compiler, *player = MACHINES[machine]
    if missing := [tool for tool in (compiler, *player) if shutil.which(tool) is None]:
        pytest.skip(f"not here: {', '.join(missing)}")
    program = tmp_path / "foreign"
    sources = [str(path) for path in sorted(SOURCES.glob("*.c")) if path.name != "module.c"]
    beside = str(Path(__file__).with_name("foreign.c"))
    subprocess.run([compiler, *STRICT, f"-I{SOURCES}", *sources, beside, "-o", str(program)], check=True)
    asked = list(cases())
    said = subprocess.run(
        [*player, str(program)], input=b"".join(question(*case) for case in asked), capture_output=True, check=True
    )

    assert said.stdout.decode().split(" \n")[:-1] == [line for case in asked for line in lines(*case)]
