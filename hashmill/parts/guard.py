"""
Runs one server and makes sure that it never outlives the process that asked for it.

    python -I -S guard.py '{"argv": [...], "user": null, "stop_signal": 15, "grace_s": 5}'

Run as a file, by a bare interpreter, so it may import nothing but the standard library.

Standard input is both life line and command line: each byte is the number of a signal for the server, end of file means
that the parent is gone (however it died) and the server must go too. Standard output says one line, the server's
process id. Standard error is the server's log. The exit status is the server's, 128 + n if signal n ended it.

A pipe and not the kernel's parent-death signal holds the parent, because that signal fires when the *thread* that
forked ends (known: prctl(2)). Between guard and server it is right: the guard has one thread.
"""

import ctypes
import json
import os
import pwd
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the server to its end and return its exit status."""
    order = json.loads(sys.argv[1])
    # The wake-up descriptor turns SIGCHLD into a byte that `select` sees, without a race.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)

    guard_pid = os.getpid()
    born, birth = os.pipe()  # closed by exec: end of file means that the server runs in a session of its own
    server_pid = os.fork()
    if server_pid == 0:
        _become_the_server(order["argv"], order["user"], guard_pid)
    os.close(birth)
    os.read(born, 1)
    os.write(1, f"{server_pid}\n".encode())
    os.close(1)

    parent_is_there = True
    while (status := _ended(server_pid)) is None:
        readable, _, _ = select.select([0, woken] if parent_is_there else [woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
        if 0 in readable:
            numbers = os.read(0, 4096)
            for number in numbers:
                _send(server_pid, number)
            if not numbers:
                parent_is_there = False
                status = _stop(server_pid, order["stop_signal"], order["grace_s"])
                break
    _sweep(server_pid)
    return status


def _become_the_server(argv: list[str], user: str | None, guard_pid: int) -> None:
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(2, 1)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if user is not None:
            entry = pwd.getpwnam(user)
            os.setgroups([])
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
        if sys.platform == "linux":
            # After setuid, which would clear it again.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard_pid:
                os._exit(1)
        os.execvp(argv[0], argv)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(2, f"{argv[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _ended(server_pid: int) -> int | None:
    pid, status = os.waitpid(server_pid, os.WNOHANG)
    if pid == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _send(server_pid: int, number: int) -> None:
    # What cannot be passed on by the server must reach its whole group.
    if number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT):
        os.killpg(server_pid, number)
    else:
        os.kill(server_pid, number)


def _stop(server_pid: int, stop_signal: int, grace_s: float) -> int:
    os.killpg(server_pid, signal.SIGCONT)
    os.kill(server_pid, stop_signal)
    ends_at = time.monotonic() + grace_s
    while time.monotonic() < ends_at:
        if (status := _ended(server_pid)) is not None:
            return status
        time.sleep(0.02)
    os.killpg(server_pid, signal.SIGKILL)
    _, waited = os.waitpid(server_pid, 0)
    code = os.waitstatus_to_exitcode(waited)
    return code if code >= 0 else 128 - code


def _sweep(server_pid: int) -> None:
    # Whatever the server left behind in its group.
    try:
        os.killpg(server_pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


if __name__ == "__main__":
    sys.exit(main())
