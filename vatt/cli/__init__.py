"""The sub-commands of ``vatt``."""
