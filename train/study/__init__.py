"""What pretraining is good for, shown on the sample: ``python -m train.study``."""
