"""What Orbax says of failed reads stays off the screen, and nothing else does."""

import asyncio
import gc
import logging
import types

import pytest

from common.checkpoints import quiet


async def fails() -> None:
    raise ValueError("abandoned")


OF_ORBAX = types.FunctionType(
    fails.__code__.replace(co_filename="/packages/orbax/reads.py"), globals(), "fails"
)


@pytest.mark.parametrize(("function", "shown"), [(fails, 1), (OF_ORBAX, 0)])
def test_only_tasks_of_orbax_fail_silently(caplog, function, shown) -> None:
    async def abandon() -> None:
        asyncio.create_task(function())
        await asyncio.sleep(0)

    quiet.quieten()
    with caplog.at_level(logging.ERROR):
        asyncio.run(abandon())
        gc.collect()
    assert len(caplog.records) == shown


def test_only_closed_loops_and_coroutines_of_orbax_are_ignored(monkeypatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(quiet, "_previous", [lambda args: seen.append(args.exc_value)])
    of_orbax = types.SimpleNamespace(cr_code=OF_ORBAX.__code__)
    for error, source in [
        (RuntimeError("Event loop is closed"), None),
        (ValueError("x"), of_orbax),
        (RuntimeError("the file is closed"), None),
    ]:
        quiet._unraisable(types.SimpleNamespace(exc_value=error, object=source))  # type: ignore
    assert [str(error) for error in seen] == ["the file is closed"]
