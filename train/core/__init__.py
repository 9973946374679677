"""What every training job shares. In the order in which a run meets it: command (arguments to exit status), ranks,
run_folder, console, data, build, engine (with optimizers), loop, checkpoint, evaluate, finish.
"""
