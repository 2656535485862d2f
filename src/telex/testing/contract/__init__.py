"""The public suite an engine proves itself with. Needs no test framework.

An engine is done when it passes::

    from telex.testing.contract import ContractSuite, Target

    class TestMine(ContractSuite):      # pytest finds it; with unittest: (ContractSuite, unittest.TestCase)
        target = MyTarget()             # a `Target`: settings, and how to make an empty place

`EngineSuite` tests the engine against `telex.engine.Engine` directly, `AppSuite` the application on top of it;
`ContractSuite` is both. `Features` switches what is asserted; that what is refused is refused at start is a test too.

`BrokerFaultContract` is for engines with a broker of their own: it kills, starves and disconnects it under load, and
needs a `FaultTarget`, which says how that is done.
"""

from .answering import InboxContract
from .asking import AskContract
from .breaking import BrokerFaultContract
from .broker import Broker, FaultKit, FaultSuite, FaultTarget, hurts
from .burying import DeadLetterContract
from .delivering import DeliverContract
from .handling import HandleContract
from .kit import Kit, Suite, Target, opened, scenario
from .ordering import OrderContract
from .publishing import PublishContract
from .remembering import HistoryContract, OperateContract
from .running import RunContract
from .settling import SettleContract


class EngineSuite(
    PublishContract,
    DeliverContract,
    SettleContract,
    OrderContract,
    DeadLetterContract,
    InboxContract,
    HistoryContract,
    OperateContract,
):
    """What an engine owes the core."""


class AppSuite(HandleContract, RunContract, AskContract):
    """What an application is promised on an engine."""


class ContractSuite(EngineSuite, AppSuite):
    """Everything."""


__all__ = [
    "AppSuite",
    "AskContract",
    "Broker",
    "BrokerFaultContract",
    "ContractSuite",
    "DeadLetterContract",
    "DeliverContract",
    "EngineSuite",
    "FaultKit",
    "FaultSuite",
    "FaultTarget",
    "HandleContract",
    "HistoryContract",
    "InboxContract",
    "Kit",
    "OperateContract",
    "OrderContract",
    "PublishContract",
    "RunContract",
    "SettleContract",
    "Suite",
    "Target",
    "hurts",
    "opened",
    "scenario",
]
