"""Celery's door to `hash_files`: a ticket names files of one run."""

from collections.abc import Sequence

from hashmill import queue
from hashmill.domain.job import SizeClass
from hashmill.domain.work import Ticket
from hashmill.flow.hash_files import hash_files as step
from hashmill.flow.tools import WorkTools
from tasks.base import house_task

FILE_NO_MAX = 2**31 - 1


async def _from_message(tools: WorkTools, run_id: str, size_class: str, files: Sequence[Sequence[int]]) -> None:
    # A forged number that is none of a file's would be an error to the database; it claims nothing either way.
    pairs = tuple((int(file_no), int(epoch)) for file_no, epoch in files if 0 < int(file_no) <= FILE_NO_MAX)
    await step(tools, Ticket(run_id=run_id, size_class=SizeClass(size_class), files=pairs))


hash_files = house_task(queue.HASH_FILES, _from_message)
