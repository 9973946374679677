"""The tasks of ``train/evaluate.py``: each module has add_arguments(parser) and run(options, place) -> exit status."""
