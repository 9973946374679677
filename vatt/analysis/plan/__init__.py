"""Memory, step time and communication of a pretraining run, predicted from its configuration before it starts.

`predict` turns a `Request` into a `Plan`. The command ``vatt plan`` prints it.
"""

from vatt.analysis.plan.predict import Plan, predict
from vatt.analysis.plan.request import Assumption, Request

__all__ = ["Assumption", "Plan", "Request", "predict"]
