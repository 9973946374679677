"""Options of ``pytest bench``, and what they select."""

from __future__ import annotations

import pytest
import torch

from bench.cases import SIZES
from bench.measure.timing import device_and_size
from bench.subjects import subjects
from vatt.errors import UserError


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench", "benchmarks of VATT")
    group.addoption("--bench-device", choices=("cuda", "cpu"), help="default: a GPU where there is one")
    group.addoption("--bench-size", choices=tuple(SIZES), help="of the cases; default: that of the device")
    group.addoption("--bench-rounds", type=int, default=10, help="calls of each case (default: %(default)s)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # pyproject.toml sets --dist for the tests, and pytest-benchmark measures nothing where that is set.
    if not config.getoption("numprocesses", None):
        config.option.dist = "no"


def selected(config: pytest.Config) -> tuple[torch.device, str]:
    """Device and size of this run."""
    try:
        device, size = device_and_size(config.getoption("--bench-device"), config.getoption("--bench-size"))
    except UserError as error:
        raise pytest.UsageError(f"--bench-device: {error}") from error
    return torch.device(device), size


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "work" not in metafunc.fixturenames:
        return
    device, size = selected(metafunc.config)
    work = [(s, provider, mode) for s in subjects(device, size) for provider in s.providers for mode in s.modes]
    metafunc.parametrize("work", work, ids=[f"{s.name} {provider} {mode}" for s, provider, mode in work])
