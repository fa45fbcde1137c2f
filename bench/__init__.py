"""The benchmarks behind every number in the docs: ``make bench``."""
