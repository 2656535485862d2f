"""For tests of applications: handlers alone, or the real pipeline in virtual time. Needs no test framework.

`delivery` is for calling a handler directly; `Harness` runs the application. Engines prove themselves with
`telex.testing.contract`, histories of fault runs are judged by `telex.testing.checker`.
"""

from .clock import VirtualClock
from .fake import FakeDelivery, delivery
from .harness import HandlersLeft, Harness, Outcome, Settled

__all__ = ["FakeDelivery", "HandlersLeft", "Harness", "Outcome", "Settled", "VirtualClock", "delivery"]
