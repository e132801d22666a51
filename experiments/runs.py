"""What every experiment does with a run: train, score, report, make a step again."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict


class Runs(NamedTuple):
    """The runs of one experiment; its methods are the modes of the command line.

    Attributes:
        make_task: builds the task of a config (`common.train.Task`).
        write_report: writes the page of (config, workdir, task, params) and returns its path.
    """

    make_task: Callable[[ConfigDict], Any]
    write_report: Callable[[ConfigDict, Path, Any, Any], Path]

    def train_and_evaluate(
        self,
        config: ConfigDict,
        workdir: str | Path,
        profile: bool = False,
        command: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Trains or resumes a run, scores it on held-out data and writes its report.

        Args:
            config: see the experiment's folder of configs.
            workdir: folder of the run; the same call on the same folder resumes it.
            profile: whether to profile its first steps, see `common.train.ProfiledStep`.
            command: command line that the run's environment.json keeps.

        Returns:
            The content of `workdir/result.json`: scores by split, steps, parameters, timing.
        """
        from common.processes import first_alone, has_others, is_first
        from common.train import Startup, fit, keep_freed_memory, make_run_mesh, require_free

        keep_freed_memory()  # before there are devices
        make_run_mesh(config)  # mistakes are told before data is generated
        if is_first():
            require_free(Path(workdir))
        startup = Startup()
        with startup.data(), first_alone("data"):
            task = self.make_task(config)
        result = fit(task, config, workdir, profile=profile, startup=startup, command=command)
        if not has_others():
            self._report(config, workdir, task)
        elif is_first():
            print(f"the report: --mode=report --workdir={workdir}, in a process of its own")
        return result

    def evaluate(self, config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
        """Scores the best checkpoint of a run on the held-out data again."""
        from common.train import evaluate, restore_params

        task = self.make_task(config)
        step, params = restore_params(task, config, workdir)
        print(f"checkpoint of step {step}")
        scores = {}
        for split, source in task.eval_sources.items():
            scores[split] = evaluate(task, params, source, config.train.eval_batch_size)
            print(split, " ".join(f"{name}={value:.6g}" for name, value in scores[split].items()))
        return scores

    def report(self, config: ConfigDict, workdir: str | Path) -> None:
        """Writes report/report.html of a run from its best checkpoint and its record."""
        self._report(config, workdir, self.make_task(config))

    def replay(self, config: ConfigDict, workdir: str | Path, step: int) -> None:
        """Makes step --step=N of a run again; shows its loss and gradient, keeps its batch."""
        from common.train import replay
        from experiments.reports.replay import save_replay, show_replay

        found = replay(self.make_task(config), config, workdir, step)
        show_replay(found)
        for file in save_replay(found, Path(workdir)):
            print("written:", file)

    def modes(self) -> dict[str, Callable[..., object]]:
        """Returns the modes by name, the first one the default."""
        return {
            "train": self.train_and_evaluate,
            "eval": self.evaluate,
            "report": self.report,
            "replay": self.replay,
        }

    def _report(self, config: ConfigDict, workdir: str | Path, task: Any) -> None:
        from common.train import restore_params

        _, params = restore_params(task, config, workdir)
        print("report:", self.write_report(config, Path(workdir), task, params))
