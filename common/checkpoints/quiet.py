"""Keeps off the screen what Orbax says of failures that are reported in one line instead."""

import contextlib
import gc
import logging
import sys
import warnings
from collections.abc import Iterator


def quieten() -> None:
    """Silences for good what Orbax logs: its progress, and traces of failures raised here.

    With it goes what the event loop logs, at any time later, of tasks of Orbax that nobody awaited.
    """
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        if _is_not_from_orbax not in logger.filters:
            logger.addFilter(_is_not_from_orbax)


@contextlib.contextmanager
def quiet_failures() -> Iterator[None]:
    """Silences what a failed read says beside its exception, in other threads too.

    A failure must be caught and let go of inside.
    """
    loggers = [logging.getLogger(name) for name in ("asyncio", "root")]
    before = [logger.disabled for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        warnings.filterwarnings("ignore", "Sharding info not provided", UserWarning)
        for logger in loggers:
            logger.disabled = True
        try:
            yield
            gc.collect()  # Tasks that failed beside the first one report when they are collected.
        finally:
            for logger, disabled in zip(loggers, before, strict=True):
                logger.disabled = disabled


def ignore_abandoned_reads() -> None:
    """Lets reads that fail or end after a failed one do so without a word."""
    if sys.unraisablehook is not _unraisable:
        _previous.append(sys.unraisablehook)
        sys.unraisablehook = _unraisable


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    told = record.getMessage() if record.name == "asyncio" else ""
    return "/orbax/" not in (record.pathname + told).replace("\\", "/")


_previous = []
"""The hook from before, once there is one of ours."""


def _unraisable(args: "sys.UnraisableHookArgs") -> None:
    loop_closed = str(args.exc_value) == "Event loop is closed"
    code = getattr(args.object, "cr_code", None)  # of a coroutine that was not awaited to its end
    if not loop_closed and not (code and "/orbax/" in code.co_filename):
        _previous[-1](args)
