import signal
import threading

import pytest

from common.train import Preempted, StopRequest


@pytest.fixture(autouse=True)
def handlers_stay_as_they_were():
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    yield
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted(signum):
    with StopRequest() as stop:
        assert not stop.requested()
        signal.raise_signal(signum)
        assert stop.requested()
        assert stop.signum == signum


def test_a_second_ctrl_c_leaves_at_once():
    with pytest.raises(KeyboardInterrupt):
        with StopRequest():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_does_nothing():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.signum == signal.SIGTERM


def test_outside_the_main_thread_nothing_is_installed():
    seen = []

    def work():
        with StopRequest() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.requested()))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def test_the_exit_code_tells_a_person_from_a_scheduler():
    assert Preempted(7, signal.SIGTERM).exit_code == 0
    assert Preempted(7, signal.SIGINT).exit_code == 130
    assert str(Preempted(7, 2)) == "stopped at step 7; run the same command to go on"
