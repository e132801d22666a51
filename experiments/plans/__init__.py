"""Plans for machines that are not at hand: the cost of a training step, and how to spread it."""
