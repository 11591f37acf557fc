"""Celery's door to `expand`: a run waits for its files to be listed."""

from hashmill import queue
from hashmill.flow.expand import expand
from tasks.base import house_task

expand_run = house_task(queue.EXPAND_RUN, expand)
