"""How a run is spread over devices: the part `mesh` of every config."""

from ml_collections import ConfigDict


def by_examples() -> ConfigDict:
    """The examples of a batch over all devices; the axes are described in `common.mesh`.

    -1 is for all devices that the other axes leave.
    """
    config = ConfigDict()
    config.data = -1
    config.fsdp = 1
    config.time = 1
    config.frequency = 1
    return config
