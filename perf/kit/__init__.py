"""The parts of `perf/gpu.py`: generators of records, which grow with every repetition that was timed.

The first record of each says what will be measured, and holds no figure.
"""
