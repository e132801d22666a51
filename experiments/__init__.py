"""Entry points, tasks, configs and benchmarks: everything that a person runs."""
