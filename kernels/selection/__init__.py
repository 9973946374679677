"""The choice of backends on a device: checked, timed, the fastest that is right. See `choice`.

``problems`` makes inputs of what a model asks for, ``checking`` compares with the reference, ``choice`` decides, and
``cache`` keeps decisions between runs.
"""

from .choice import SECONDS, Decision, Examiner, Here, NotExamined, Selection, Verdict, select_backends

__all__ = ["SECONDS", "Decision", "Examiner", "Here", "NotExamined", "Selection", "Verdict", "select_backends"]
