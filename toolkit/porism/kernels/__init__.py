"""Fast cores: chunked torch on the CPU, Triton on CUDA. They are reached through the packages that use them."""
