"""The sample that LABDRIVE's documentation shows runs to its end, byte for byte as it stands there."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.researcher import SAMPLE_JOB, Desk

SEED = Path(__file__).parents[4] / "shared" / "seed" / "jupyter-notebooks.txt"
BEGIN, END = "The full code sample:\n", "\nLast updated"

pytestmark = pytest.mark.skipif(not SEED.exists(), reason="the vendor's document is not beside the project here")


def sample() -> str:
    text = SEED.read_text(encoding="utf-8")
    return text[text.index(BEGIN) + len(BEGIN) : text.rindex(END)].strip("\n") + "\n"


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    source = folder / "sample.py"
    source.write_text(program, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-W", "error", str(source)],
        capture_output=True,
        text=True,
        timeout=120,
        env=dict(os.environ),
    )


def test_untouched_it_runs_its_job_to_the_end_and_reads_nothing(place: Desk, tmp_path: Path) -> None:
    before = place.ask(lambda: place.sandbox.job(str(SAMPLE_JOB)))

    done = run(sample(), tmp_path)

    assert done.returncode == 0, done.stderr
    job = place.ask(lambda: place.sandbox.job(str(SAMPLE_JOB)))
    assert job.statuses[len(before.statuses) :] == ["RUNNING", "COMPLETED"]
    messages = place.ask(lambda: place.sandbox.messages(str(SAMPLE_JOB)))[before.message_count :]
    assert [(one.message, one.type, one.file_id) for one in messages] == [("Sample message", "INFO", None)]


def test_with_files_in_its_two_lists_every_digest_is_logged_and_stored(place: Desk, tmp_path: Path) -> None:
    contents = {f"sample/{n}.bin": os.urandom(size) for n, size in enumerate((0, 1, 70_000, 9_000_000))}
    ids = {path: place.put(path, content) for path, content in contents.items()}
    by_path = "sample/3.bin"
    described = ids["sample/1.bin"]
    place.ask(lambda: place.sandbox.set_metadata(described, "title", "A single byte"))
    named = [ids[path] for path in contents if path != by_path]
    program = sample()
    for empty, filled in (
        ('"ids":   [ ],', f'"ids":   {named!r},'.replace("'", '"')),
        ('"paths": [ ]', f'"paths": ["/{by_path}"]'),
    ):
        assert program.count(empty) == 1
        program = program.replace(empty, filled)
    before = place.ask(lambda: place.sandbox.job(str(SAMPLE_JOB)))

    done = run(program, tmp_path)

    assert done.returncode == 0, done.stderr
    job = place.ask(lambda: place.sandbox.job(str(SAMPLE_JOB)))
    assert job.statuses[len(before.statuses) :] == ["RUNNING", "COMPLETED"]
    messages = place.ask(lambda: place.sandbox.messages(str(SAMPLE_JOB)))[before.message_count :]
    told = [(one.message, one.file_id) for one in messages]
    assert told[0] == ("Sample message", None)
    assert '    "title": "A single byte"' in next(text for text, _ in told if "title" in text)
    assert sum("has no metadata" in text for text, _ in told) == len(contents) - 1
    for path, content in contents.items():
        digests = {name: hashlib.new(name, content).hexdigest() for name in ("md5", "sha1", "sha256")}
        assert place.ask(lambda file_id=ids[path]: place.sandbox.hashes_of(file_id)) == digests  # type: ignore[misc]
        assert [text.rpartition(" ")[2] for text, file_id in told if file_id == ids[path]] == list(digests.values())
