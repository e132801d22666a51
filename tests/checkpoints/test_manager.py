import json
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.checkpoints import CheckpointManager, CheckpointReader, SaveError
from common.errors import UserError


def make_state(value=1.0, width=3, dtype=jnp.float32):
    params = {"layer": {"kernel": jnp.full((2, width), value, dtype), "bias": jnp.zeros(width)}}
    return {
        "step": jnp.int32(4),
        "params": params,
        "opt_state": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init(params),
        "rng": jax.random.key(7),
    }


def abstract(state):
    return jax.eval_shape(lambda: state)


@pytest.fixture
def open_manager(tmp_path):
    managers = []

    def opened(keep_last=2, keep_best=1, **options):
        path = tmp_path / "checkpoints"
        manager = CheckpointManager(path, keep_last, keep_best, "accuracy", **options)
        managers.append(manager)
        return manager

    yield opened
    for manager in managers:
        manager.close()


def save_all(manager, accuracies):
    """Saves one state after each step; None stands for a checkpoint that was not scored."""
    for step, accuracy in enumerate(accuracies, start=1):
        scores = None if accuracy is None else {"accuracy": accuracy, "count": 5}
        manager.save(step, make_state(step), scores)
    manager.wait()


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert x.dtype == y.dtype
        assert bool(jnp.all(x == y))


def test_a_state_comes_back_exactly(open_manager):
    state = make_state() | {"half": jnp.arange(3, dtype=jnp.bfloat16) / 7}
    manager = open_manager()
    manager.save(4, state, notes={"data_position": 4})
    manager.wait()
    reopened = open_manager()
    assert_equal(reopened.restore(4, abstract(state)), state)
    assert reopened.notes(4) == {"data_position": 4}
    assert reopened.metrics(4) is None


def test_a_state_may_be_donated_as_soon_as_it_is_handed_over(open_manager):
    replace = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    state = {"large": jnp.arange(300_000, dtype=jnp.float32)}
    expected = np.array(state["large"])
    manager = open_manager()
    for step in range(1, 4):
        manager.save(step, state)
        state = {"large": replace(state["large"])}
        jax.block_until_ready(state)
        manager.wait()
        restored = manager.restore(step, abstract(state))["large"]
        assert (np.asarray(restored) == expected).all()
        expected = np.array(state["large"])


@pytest.mark.parametrize(
    ("accuracies", "kept", "best"),
    [
        ([0.5, 0.9, 0.6, 0.7, 0.8], [2, 4, 5], 2),
        ([0.5, 0.6, 0.7], [2, 3], 3),
        ([0.9, 0.9, 0.1, 0.1], [2, 3, 4], 2),
        ([0.4, None, None, None], [1, 3, 4], 1),
        ([None, None, None], [2, 3], None),
    ],
    ids=["best is old", "best is new", "later of equals", "unscored do not compete", "none scored"],
)
def test_the_last_and_the_best_are_kept(open_manager, accuracies, kept, best):
    manager = open_manager()
    save_all(manager, accuracies)
    for seen in (manager, open_manager()):
        assert seen.all_steps() == kept
        assert seen.best_step() == best
        assert seen.latest_step() == len(accuracies)


def test_several_best_are_kept(open_manager):
    manager = open_manager(keep_last=1, keep_best=2)
    save_all(manager, [0.8, 0.9, 0.1, 0.2])
    assert manager.all_steps() == [1, 2, 4]
    assert manager.metrics(2) == {"accuracy": 0.9, "count": 5}


def test_an_empty_folder_has_no_steps(open_manager):
    manager = open_manager()
    assert (manager.all_steps(), manager.latest_step(), manager.best_step()) == ([], None, None)
    with pytest.raises(UserError, match="no checkpoint of step 3"):
        manager.restore(3, abstract(make_state()))


def test_an_existing_step_is_replaced_only_on_request(open_manager):
    manager = open_manager()
    manager.save(1, make_state(1.0))
    with pytest.raises(FileExistsError, match="Step 1 already exists"):
        manager.save(1, make_state(2.0))
    assert manager.latest_step() == 1
    manager.save(1, make_state(3.0), {"accuracy": 0.5}, overwrite=True)
    manager.wait()
    assert_equal(manager.restore(1, abstract(make_state())), make_state(3.0))
    assert manager.best_step() == 1


def renamed(state):
    kernel = state["params"]["layer"].pop("kernel")
    return state | {"params": state["params"] | {"other": kernel}}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (
            lambda: make_state(width=5),
            r"params/layer/bias is float32\(3\) in the checkpoint, float32\(5\) here; "
            r"params/layer/kernel is float32\(2, 3\) in the checkpoint, float32\(2, 5\) here$",
        ),
        (
            lambda: make_state(dtype=jnp.bfloat16),
            r"params/layer/kernel is float32\(2, 3\) in the checkpoint, bfloat16\(2, 3\) here$",
        ),
        (
            lambda: renamed(make_state()),
            "params/layer/kernel is unknown to the model; "
            "params/other is missing in the checkpoint$",
        ),
        (
            lambda: make_state() | {"opt_state": optax.sgd(0.1).init({})},
            "opt_state/1/0/count is unknown to the model; .*mu",
        ),
    ],
    ids=["wider", "other dtype", "renamed", "other optimizer"],
)
def test_another_tree_is_refused_by_name(open_manager, target, expected):
    manager = open_manager()
    save_all(manager, [0.5])
    with pytest.raises(UserError, match=expected) as caught:
        manager.restore(1, abstract(target()))
    assert "\n" not in str(caught.value)


def test_at_most_twenty_names_are_given(open_manager):
    manager = open_manager()
    manager.save(1, {"params": {f"old{i}": jnp.zeros(2) for i in range(30)}})
    manager.wait()
    with pytest.raises(UserError, match="; and 10 more$") as caught:
        manager.restore(1, abstract({"params": {}}))
    assert str(caught.value).count("unknown") == 20


def test_a_damaged_checkpoint_is_named(open_manager, tmp_path):
    manager = open_manager()
    save_all(manager, [0.5])
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "state" / "d")
    with pytest.raises(UserError, match="checkpoints/1 is damaged: .*state/d/") as caught:
        open_manager().restore(1, abstract(make_state()))
    assert "\n" not in str(caught.value)


def test_a_save_under_way_is_not_counted_yet(open_manager):
    manager = open_manager()
    save_all(manager, [0.5])
    manager.save(2, make_state(2.0), {"accuracy": 0.9})
    assert (manager.latest_step(), manager.best_step()) == (1, 1)
    manager.wait()
    assert (manager.latest_step(), manager.best_step()) == (2, 2)


@pytest.fixture
def full_disk():
    """Makes every file end at 100 kB, which stands for a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def set_full(full):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000 if full else soft, hard))

    yield set_full
    set_full(False)


def test_a_failed_save_is_reported_once_and_not_counted(open_manager, full_disk, tmp_path):
    state = {"noise": jax.random.normal(jax.random.key(0), (500, 500))}
    manager = open_manager(keep_last=1)
    manager.save(1, state, {"accuracy": 0.5})
    manager.wait()
    full_disk(True)
    manager.save(2, state, {"accuracy": 0.9})
    with pytest.raises(SaveError, match="checkpoint of step 2 was not written: .*too large"):
        manager.wait()
    full_disk(False)
    manager.wait()
    assert (manager.latest_step(), manager.best_step()) == (1, 1)
    manager.save(2, state, {"accuracy": 0.9})
    manager.wait()
    assert manager.all_steps() == [2]
    assert_equal(manager.restore(2, abstract(state)), state)


def test_a_failed_save_is_found_when_the_manager_closes(tmp_path, full_disk):
    state = {"noise": jax.random.normal(jax.random.key(0), (500, 500))}
    with pytest.raises(SaveError, match="step 1 was not written"):
        with CheckpointManager(tmp_path, 1, 1, "accuracy") as manager:
            full_disk(True)
            manager.save(1, state)
    full_disk(False)
    with pytest.raises(KeyError, match="the cause") as caught:
        with CheckpointManager(tmp_path, 1, 1, "accuracy") as manager:
            full_disk(True)
            manager.save(1, state)
            raise KeyError("the cause")
    full_disk(False)
    assert "step 1 was not written" in caught.value.__notes__[0]


def test_what_a_killed_save_left_behind_goes_with_the_next(open_manager, tmp_path):
    save_all(open_manager(), [0.5])
    folder = tmp_path / "checkpoints"
    for step in (2, 7):
        left = folder / f"{step}.orbax-checkpoint-tmp"
        shutil.copytree(folder / "1", left)
        (left / "commit_success.txt").unlink()
    manager = open_manager()
    assert manager.all_steps() == [1]
    manager.save(2, make_state(2.0))
    manager.wait()
    assert manager.all_steps() == [1, 2]
    assert {path.name for path in folder.iterdir()} == {"1", "2"}


def test_reading_touches_nothing(open_manager, tmp_path):
    with pytest.raises(UserError, match="no folder .*checkpoints"):
        CheckpointReader(tmp_path / "checkpoints", "accuracy")
    save_all(open_manager(), [0.5])
    left = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    left.mkdir()
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    reader = CheckpointReader(tmp_path / "checkpoints", "accuracy")
    assert_equal(reader.restore(1, abstract(make_state())), make_state(1.0))
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_settings_are_checked(tmp_path):
    with pytest.raises(UserError, match="config.train.keep_last is 0, expected 1 or more"):
        CheckpointManager(tmp_path, 0, 1, "accuracy")
    with pytest.raises(UserError, match="config.train.keep_best is 0, expected 1 or more"):
        CheckpointManager(tmp_path, 1, 0, "accuracy")
    (tmp_path / "file").write_text(json.dumps(None))
    with pytest.raises(UserError, match="cannot make the folder .*file"):
        CheckpointManager(tmp_path / "file", 1, 1, "accuracy")
