"""The CPU path: fast plain torch; also serves devices without kernels of their own."""
