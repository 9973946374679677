"""Linear probes: what a frozen backbone knows (paper, section 4.2.4)."""

from vatt.probe.features import Features, extract
from vatt.probe.low_rank import LowRank, LowRankConfig, fit_low_rank
from vatt.probe.protocol import ProbeError, Split, splits_of
from vatt.probe.svm import fit_svm

__all__ = [
    "Features",
    "LowRank",
    "LowRankConfig",
    "ProbeError",
    "Split",
    "extract",
    "fit_low_rank",
    "fit_svm",
    "splits_of",
]
