"""What a user would pick instead of this project: operations and whole models from other packages, for the benchmark.

`bench.rivals.ops` has the operations, `bench.rivals.whole` the pretraining models. Packages that are not required are
imported when a provider or a model is made, and not before.
"""
