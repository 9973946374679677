"""Packaging. Metadata is in pyproject.toml; here is only what it cannot say.

The folder kernels/ is imported as ``vatt.kernels``: through the committed symlink vatt/kernels in a checkout, and
through ``package_dir`` in a wheel. Nothing is compiled and no hardware is probed.
"""

from setuptools import find_packages, setup

VATT = find_packages(include=["vatt", "vatt.*"], exclude=["vatt.kernels", "vatt.kernels.*"])
KERNELS = ["kernels"] + [f"kernels.{name}" for name in find_packages("kernels")]

setup(
    packages=VATT + [f"vatt.{name}" for name in KERNELS],
    package_dir={"vatt": "vatt", "vatt.kernels": "kernels"},
    package_data={"vatt": ["py.typed"]},
)
