"""One question a file, its figures in results/; `python -m benchmarks list` shows them."""
