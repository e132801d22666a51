"""Runs a function over tasks in processes that stop when told to, and when their parent dies."""

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

from common.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

STOP_SECONDS = 5.0


def map_in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Generator[Result, None, None]:
    """Yields function(task) for all tasks, in the order in which they are done.

    The processes are spawned, so function and tasks must be picklable. Whatever ends the
    generator, closing it included, ends them too. They ignore Ctrl-C, which is the parent's to act
    on, and leave when the parent has died; a long function asks `parent_is_dead` now and then.

    Args:
        function: called in the workers.
        tasks: its arguments, handed out one by one.
        workers: number of processes; with 0 the calls are made in this one.

    Raises:
        UserError: a call failed, or a worker died; in one line, with the worker's traceback as
            the cause.
    """
    if workers == 0:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    processes: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(min(workers, len(tasks))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(function, theirs), daemon=True)
            with _interrupts_held():
                process.start()
            theirs.close()
            processes[ours] = process
        yield from _hand_out(processes, tasks)
    finally:
        _stop(processes)


def parent_is_dead() -> bool:
    """Tells whether this is a worker whose parent has died."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def _hand_out(
    processes: dict[Connection, BaseProcess], tasks: Sequence[Any]
) -> Generator[Any, None, None]:
    left = iter(tasks)
    busy = []
    for connection, task in zip(processes, left, strict=False):
        connection.send(task)
        busy.append(connection)
    while busy:
        for connection in cast(list[Connection], wait(busy)):
            try:
                result, failure = connection.recv()
            except (EOFError, OSError):
                raise UserError(_death(processes[connection])) from None
            if failure is not None:
                line, trace = failure
                raise UserError(line) from RuntimeError(f"in a worker process:\n{trace}")
            task = next(left, None)
            if task is None:
                busy.remove(connection)
            else:
                connection.send(task)
            yield result


def _death(process: BaseProcess) -> str:
    process.join(STOP_SECONDS)
    code = process.exitcode
    if code is None or code >= 0:
        return f"a worker process ended with status {code}"
    hint = "; out of memory, perhaps: try fewer workers" if code == -signal.SIGKILL else ""
    return f"a worker process was ended by {signal.Signals(-code).name}{hint}"


def _stop(processes: dict[Connection, BaseProcess]) -> None:
    for connection, process in processes.items():
        connection.close()
        process.terminate()
    for process in processes.values():
        process.join(STOP_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


@contextmanager
def _interrupts_held() -> Generator[None, None, None]:
    """Holds Ctrl-C back until the end; a process that is started inside never gets one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(function: Callable[[Any], Any], connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            reply = function(task), None
        except UserError as error:
            reply = None, (str(error), traceback.format_exc())
        except Exception as error:
            line = " ".join(f"{type(error).__name__}: {error}".split())
            reply = None, (line, traceback.format_exc())
        try:
            connection.send(reply)
        except OSError:
            return
