"""Training: the task protocol, the loop, and what it records."""

from common.train.compilation import use_cache
from common.train.environment import describe_environment
from common.train.evaluation import EvaluationStopped, evaluate
from common.train.freed_memory import keep_freed_memory
from common.train.lock import RunLock, require_free
from common.train.loop import fit
from common.train.metrics import format_scores, make_batch_sums, summarise, wilson_interval
from common.train.optim import make_optimizer, make_schedule
from common.train.parts import restore_params
from common.train.preemption import Preempted, StopRequest
from common.train.profiling import ProfiledStep
from common.train.progress import NoProgress, Progress, ProgressLine
from common.train.replay import Replay, replay
from common.train.sharding import make_run_mesh
from common.train.startup import Startup
from common.train.state import TrainState, make_init, metric_names, parameter_count
from common.train.step import make_train_step
from common.train.task import Batch, Params, Source, Task
from common.train.workdir import Workdir
from common.train.writers import MetricsWriter, read_records

__all__ = [
    "Batch",
    "EvaluationStopped",
    "MetricsWriter",
    "NoProgress",
    "Params",
    "Preempted",
    "ProfiledStep",
    "Progress",
    "ProgressLine",
    "Replay",
    "RunLock",
    "Source",
    "Startup",
    "StopRequest",
    "Task",
    "TrainState",
    "Workdir",
    "describe_environment",
    "evaluate",
    "fit",
    "format_scores",
    "keep_freed_memory",
    "make_batch_sums",
    "make_init",
    "make_optimizer",
    "make_run_mesh",
    "make_schedule",
    "make_train_step",
    "metric_names",
    "parameter_count",
    "read_records",
    "replay",
    "require_free",
    "restore_params",
    "summarise",
    "use_cache",
    "wilson_interval",
]
