"""The training engine: the loop, compiled training steps, precision, fused kernels, prefetch."""
