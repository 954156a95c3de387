"""Claims of the field about its methods, tested on the rows at hand: `python -m benchmarks.claims --help`."""
