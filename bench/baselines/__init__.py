"""What a user would pick instead of this project: complete pretraining models, and the packages of all baselines.

Baselines of an operation stand in its case (`bench.cases`). Packages that are not required are imported when a call or
a model is made, and not before.
"""
