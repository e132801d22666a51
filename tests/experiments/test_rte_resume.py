"""A run on pairs of sentences that is stopped, or ends early, and is called again."""

import pytest

from common.train import fit
from experiments.rte import make_task
from tests.experiments.test_rte import tiny
from tests.train.toy import At, Crash, crash, curve, without_timing

pytestmark = pytest.mark.usefixtures("quick_compilation", "cached_compilation")
STOPPED = 3
"""A step behind the checkpoint of step 2."""
CONFIG = {
    "train.steps": 20, "train.eval_every": 2, "train.checkpoint_every": 2, "train.log_every": 2,
    "train.patience": 1, "train.keep_last": 2, "optim.learning_rate": 1e-3,
    "encoder.layers": 1, "model.branches": ("cnn", "film"), "model.head_dropout": 0.1,
    "optim.average_decay": 0.9, "loss.smoothing_start": 0.1,
}  # fmt: skip


class Watch(At):
    """Notes the steps that are made, and does something after one of them."""

    def __init__(self, step=0, action=lambda: None):
        super().__init__(step, action)
        self.steps = []

    def update(self, step, values=None):
        self.steps.append(step)
        super().update(step, values)


def call(folder, progress):
    config = tiny(**CONFIG)
    task = make_task(config)
    result = fit(task, config, folder, progress=progress)
    return without_timing(result), curve(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder and outcome of a run that ends once a validation is no better than those before."""
    folder = tmp_path_factory.mktemp("whole")
    watch = Watch()
    outcome = call(folder, watch)
    last = outcome[0]["step"]
    assert watch.steps == list(range(1, last + 1)) and last < 20
    assert "no better for 1 validations; done" in watch.messages
    return folder, outcome


def test_a_run_that_ended_early_makes_no_more_steps(whole):
    folder, outcome = whole
    again = Watch()
    assert call(folder, again) == outcome
    assert again.steps == []
    (folder / "result.json").unlink()  # killed between its last step and its result
    assert call(folder, again) == outcome
    assert again.steps == []


def test_a_run_that_was_stopped_ends_as_if_it_had_not(whole, tmp_path):
    with pytest.raises(Crash):
        call(tmp_path, Watch(STOPPED, crash))
    rest = Watch()
    assert call(tmp_path, rest) == whole[1]
    assert rest.steps == list(range(STOPPED, whole[1][0]["step"] + 1))


def test_every_validation_records_what_film_does(whole):
    validations = [r for r in whole[1][1] if r["split"] == "validation"]
    names = {f"film_1_{side}" for side in ("gamma", "beta")}
    names |= {f"{name}_over_{what}" for name in names for what in ("channels", "examples")}
    for record in whole[1][1]:
        film = {name for name in record if "film" in name}
        assert film == (names if record["split"] == "validation" else set())
    gammas = [r["film_1_gamma"] for r in validations]
    assert len(set(gammas)) == len(gammas) > 1 and max(abs(x - 1) for x in gammas) < 0.1
