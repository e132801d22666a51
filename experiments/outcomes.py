"""How a command can end: exit statuses, and what is said when memory runs out."""

from ml_collections import ConfigDict

STATUSES = {
    0: "done, or stopped by SIGTERM with the state saved",
    1: "out of memory, or a defect (with a traceback)",
    2: "something to mend, told in one line",
    130: "stopped by Ctrl-C, the state saved if training had begun; a second one at once",
    143: "ended by SIGTERM before training began or after it was done",
}
"""Exit statuses and what they mean."""

SIZES = ("train.batch_size", "data.image_size", "model.embed_dim", "model.seq_len")
"""Fields of a config that the need for memory grows with."""

SIGNS = ("RESOURCE_EXHAUSTED", "Out of memory", "can't start new thread")
"""What libraries write in an error that means a lack of memory."""


def is_lack_of_memory(error: Exception) -> bool:
    """Tells whether an error means that memory ran out."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)


def lack_of_memory(error: Exception, config: ConfigDict) -> str:
    """Says in one line that memory ran out and which fields of `config` to lower."""
    sizes = []
    for key in SIZES:
        group, name = key.split(".")
        if name in config.get(group, {}):
            sizes.append(f"config.{key} ({config[group][name]})")
    what = (str(error).splitlines() or ["no reason given"])[0][:200]
    return f"out of memory ({what}); lower {', '.join(sizes)}"
