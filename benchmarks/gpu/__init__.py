"""What one GPU shows in minutes: tests, speeds and peers. ``python -m benchmarks.gpu``, or ``make gpu-check``."""
