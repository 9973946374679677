"""The tasks of ``train/evaluate.py``: each module has add_arguments(parser), and run(options, context) -> status."""
