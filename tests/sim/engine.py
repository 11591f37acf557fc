"""
Time and fate: an event loop whose clock jumps, and bodies (simulated processes) that can be stopped and killed.

Nothing sleeps and nothing runs on a thread, so a run depends on its seed alone. What belongs to a body is known by its
context: every task, timer and callback that a body's code starts inherits it. A stopped body's callbacks are kept and
run when it goes on, as after SIGSTOP and SIGCONT; a dead body's never run, as after SIGKILL.
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

BEGIN_S = 1000.0
"""Where the clock starts. Not 0: a pause "since never" must not look like one that has just begun."""


class Fate(Enum):
    ALIVE = "alive"
    STOPPED = "stopped"
    DEAD = "dead"


@dataclass(slots=True, eq=False)
class Body:
    """One simulated process: its fate, its own clock, and what it would do if it could."""

    name: str
    offset_s: float = 0.0
    rate: float = 1.0
    fate: Fate = Fate.ALIVE
    over: bool = False
    """The world has ended: what is still under way is only to be taken down."""
    held: "list[_Deed]" = field(default_factory=list)
    tasks: "list[asyncio.Task[Any]]" = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return self.fate is Fate.ALIVE

    def clock_s(self) -> float:
        """What this process takes for the time: `tools.clock_s`."""
        return asyncio.get_running_loop().time() * self.rate + self.offset_s


BODY: contextvars.ContextVar[Body | None] = contextvars.ContextVar("body", default=None)


def context_of(body: Body) -> contextvars.Context:
    """Return a context whose tasks and timers belong to `body`."""
    context = contextvars.Context()
    context.run(BODY.set, body)
    return context


@dataclass(slots=True, eq=False)
class _Deed:
    """A callback of a body; it runs when its time has come and its body can."""

    body: Body
    callback: Callable[..., object]
    args: tuple[Any, ...]
    context: contextvars.Context
    handle: asyncio.Handle | None = None

    def run(self) -> None:
        if self.body.alive or self.body.over:
            self.callback(*self.args)
        else:
            # The dead's are kept as well: a task that is dropped in mid-air would run its `finally`.
            self.body.held.append(self)

    def run_late(self) -> None:
        if self.handle is None or not self.handle.cancelled():
            self.run()


class NothingLeft(Exception):
    """The loop waits, and no timer will ever end the wait."""


class _Skip:
    """A selector without files: waiting moves the clock."""

    def __init__(self) -> None:
        self.now_s = BEGIN_S

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise NothingLeft
        if timeout > 0:
            self.now_s += timeout
        return []

    def close(self) -> None:
        pass


class VirtualLoop(asyncio.BaseEventLoop):
    """`thread_s` draws how long work sent to a thread takes; it runs here, in its turn."""

    def __init__(self, thread_s: Callable[[], float]) -> None:
        super().__init__()
        self._selector = _Skip()
        self._thread_s = thread_s
        self.set_task_factory(_task)

    def time(self) -> float:
        return self._selector.now_s

    def _process_events(self, events: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        context = contextvars.copy_context() if context is None else context
        body = context.get(BODY)
        if body is None:
            return super().call_soon(callback, *args, context=context)
        deed = _Deed(body, callback, args, context)
        deed.handle = super().call_soon(deed.run, context=context)
        return deed.handle

    def call_at(
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        context = contextvars.copy_context() if context is None else context
        body = context.get(BODY)
        if body is None:
            return super().call_at(when, callback, *args, context=context)
        deed = _Deed(body, callback, args, context)
        handle = super().call_at(when, deed.run, context=context)
        deed.handle = handle
        return handle

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        future = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_later(self._thread_s(), work)
        return future

    def apart(self, delay_s: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """`call_later` for what belongs to no body: the network, a server, fate."""
        return self.call_later(delay_s, callback, *args, context=contextvars.Context())

    def start(self, body: Body, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Start `work` as a task of `body`."""
        return self.create_task(work, context=context_of(body))

    def stop_body(self, body: Body) -> None:
        if body.alive:
            body.fate = Fate.STOPPED

    def continue_body(self, body: Body) -> None:
        if body.fate is Fate.STOPPED:
            body.fate = Fate.ALIVE
            self._let_go(body)

    def take_down(self, bodies: list[Body]) -> None:
        """End what is left of `bodies` in order, so that nothing is destroyed in mid-air."""
        for body in bodies:
            body.over = True
            self._let_go(body)
        left = [task for body in bodies for task in body.tasks if not task.done()]
        for _ in range(100):
            if not left:
                return
            for task in left:
                task.cancel()
            self.run_until_complete(_at_most(left, 10.0))
            left = [task for body in bodies for task in body.tasks if not task.done()]
        raise RuntimeError(f"these do not end: {left}")

    def _let_go(self, body: Body) -> None:
        held, body.held = body.held, []
        for deed in held:
            deed_again = super().call_soon(deed.run_late, context=deed.context)
            if deed.handle is None:
                deed.handle = deed_again


def _task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
    context = options.get("context")
    body = context.get(BODY) if context is not None else BODY.get()
    task = asyncio.Task(work, loop=loop, **options)
    if body is not None:
        body.tasks.append(task)
    return task


async def _at_most(tasks: "list[asyncio.Task[Any]]", timeout_s: float) -> None:
    await asyncio.wait(tasks, timeout=timeout_s)
