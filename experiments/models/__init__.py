"""Models from configs: where their words become modules."""
