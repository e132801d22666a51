"""The shared core: kernels, layers, data, training, checkpoints, analysis."""
