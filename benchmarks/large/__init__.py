"""Training on larger data beside other libraries, in one run: `python -m benchmarks.large`.

`problems` says what is computed and makes the data, `libraries` how each library computes it,
`worker` is the process that runs one of them, and `__main__` runs all in turn, with the rounds of
`benchmarks.rivals`, and writes the tables.
"""
