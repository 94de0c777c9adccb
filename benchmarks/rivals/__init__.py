"""bcenet beside the other libraries, in one interleaved run: `python -m benchmarks.rivals`.

`problems` says what is computed, `libraries` how each library computes it, `worker` is the process
that runs one of them, `rounds` runs all of them in turn, and `report` and `plot` write the results.
"""
