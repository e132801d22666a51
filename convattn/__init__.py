"""ConvAttn: causal convolutions before attention, against attention alone."""
