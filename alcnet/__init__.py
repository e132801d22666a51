"""ALCNet: an encoder whose attention maps are read by a convolutional net."""
