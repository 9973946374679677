"""A linear support vector machine on features that do not change (scikit-learn).

Shapes: N samples, D width, K classes.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vatt.evaluation.probe.protocol import ProbeError
from vatt.extras import install

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of which one is chosen by cross-validation on the training clips
LARGE = 2_000_000  # values
Scorer = Callable[[Tensor], Tensor]


def require_svm() -> None:
    """Raises ProbeError if scikit-learn is not installed: to be known before the features are extracted."""
    try:
        import sklearn.svm  # noqa: F401
    except ImportError as error:
        what = f"{install('probe')}, or --classifier low-rank"
        raise ProbeError(f"the SVM needs scikit-learn: {what} ({error})") from error


def fit_svm(x_ND: Tensor, label_N: Sequence[int], clip_N: Sequence[int], classes: int, seed: int = 0) -> Scorer:
    """Fits one against the rest and returns the function from features (M, D) to scores (M, K).

    The strength C is that of `STRENGTHS` with the best accuracy in up to three folds of the training clips; if a class
    has a single clip there are no folds, and it is 1.

    Args:
        x_ND: float32, standardised by the caller.
        label_N: class of each sample.
        clip_N: which samples are views of one clip: they stay on one side in the cross-validation.

    Raises:
        ProbeError: scikit-learn is not installed, or fewer than two classes have a sample.
    """
    require_svm()
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.svm import LinearSVC

    label = np.asarray(label_N)
    clips = Counter(label for _, label in set(zip(clip_N, label_N, strict=True)))  # clips of a class, not views
    if len(clips) < 2:
        raise ProbeError("the SVM needs training clips of at least two classes")
    folds = min(3, *clips.values())
    x = x_ND.numpy()
    machine = LinearSVC(dual=True, tol=1e-3, max_iter=1000, random_state=seed)  # the dual takes a tenth of the time
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the strongest: worse in the folds, and not taken then
        if folds < 2:
            fitted = machine.fit(x, label)
        else:
            cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
            jobs = -1 if x.size > LARGE else None  # all cores; starting them takes longer than a small search
            search = GridSearchCV(machine, {"C": STRENGTHS}, cv=cut, n_jobs=jobs)
            fitted = search.fit(x, label, groups=np.asarray(clip_N)).best_estimator_

    def scores(x_MD: Tensor) -> Tensor:
        found = np.atleast_1d(fitted.decision_function(x_MD.numpy()))
        if found.ndim == 1:  # two classes: one score, for the second of them
            found = np.stack([-found, found], axis=1)
        out = torch.full((len(x_MD), classes), -torch.inf)  # a class without training clips is never chosen
        out[:, torch.from_numpy(fitted.classes_)] = torch.from_numpy(found).float()
        return out

    return scores
