"""The command ``vatt``."""
