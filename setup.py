"""Packaging. Metadata is in pyproject.toml; here is only what it cannot say.

The folder kernels/ is imported as ``vatt.kernels``: through the committed symlink vatt/kernels in a checkout, and
through ``package_dir`` in a wheel. A wheel has train/ as vatt/jobs/train/: programs that the command ``vatt`` starts by
their path, so that no package ``train`` stands among those of others. Nothing is compiled and no hardware is probed.
"""

from setuptools import find_packages, setup

FOLDERS = {"vatt": "vatt", "vatt.kernels": "kernels", "vatt.jobs.train": "train"}


def packages(name, folder):
    """A package and those inside of it; kernels not once more through the symlink."""
    inside = find_packages(folder, exclude=["kernels", "kernels.*"])
    return [name, *(f"{name}.{found}" for found in inside)]


setup(
    packages=[package for name, folder in FOLDERS.items() for package in packages(name, folder)],
    package_dir=FOLDERS,
    package_data={"": ["py.typed", "static/**"]},
    include_package_data=False,  # or the copy of kernels/ that an sdist has in place of the symlink counts as data
)
