"""Linear probes: what a frozen backbone knows (paper, section 4.2.4)."""

from vatt.evaluation.probe.features import Features, extract
from vatt.evaluation.probe.fit import KINDS, Kind, fit_split, summary
from vatt.evaluation.probe.low_rank import LowRank, LowRankConfig, fit_low_rank
from vatt.evaluation.probe.protocol import ProbeError, Split, check_classes, splits_of
from vatt.evaluation.probe.svm import fit_svm, require_svm

__all__ = [
    "KINDS",
    "Features",
    "Kind",
    "LowRank",
    "LowRankConfig",
    "ProbeError",
    "Split",
    "check_classes",
    "extract",
    "fit_low_rank",
    "fit_split",
    "fit_svm",
    "require_svm",
    "splits_of",
    "summary",
]
