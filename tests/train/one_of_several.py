"""A toy run as one of several processes, from the command line; it can end itself on the way.

python -m tests.train.one_of_several CONFIG.py:PROCESS,STEP,SIGNAL --workdir=... --distributed ...
"""

import os
import signal
import sys
import time
from pathlib import Path

from ml_collections import ConfigDict

from experiments import cli


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains a toy task; a process sends itself a signal after a step.

    JAX looks for signals once a second, and the run should not be over by then.
    """
    import jax

    from common.train import fit, sharding
    from tests.train.toy import At, NoProgress, ToyTask

    class ThenSlowly(At):
        def update(self, step, values=None):
            super().update(step, values)
            if step >= self.step:
                time.sleep(0.25)

    sharding.SMALLEST = 1
    process, step, name = config.ends
    with config.unlocked():
        del config.ends
    progress = ThenSlowly(step, lambda: os.kill(os.getpid(), getattr(signal, name)))
    mine = process in (str(jax.process_index()), "all")
    fit(ToyTask(), config, workdir, progress=progress if mine else NoProgress())


def get_config(variant: str) -> ConfigDict:
    """Returns the toy's config; the variant says which process ends itself ('all'), when, how."""
    from tests.train.toy import toy_config

    process, step, name = variant.split(",")
    config = toy_config()
    config.mesh = ConfigDict({"fsdp": -1})  # arrays that no process has the whole of
    config.ends = (process, int(step), name)
    return config


if __name__ == "__main__":
    this = Path(__file__)
    modes = {"train": train, "report": train}
    sys.exit(cli.run(modes, module="toy", description="Toy.", default_config=this))
