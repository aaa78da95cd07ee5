"""The same numbers in less time. Nothing in here has to be read to understand the algorithm: each
piece has a plain twin, and a test that compares the two."""
