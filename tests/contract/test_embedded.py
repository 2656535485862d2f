"""The embedded engine keeps the contract, in a file and in memory."""

from __future__ import annotations

from telex.testing.contract import ContractSuite

from .targets import InMemory, OnFile


class TestFile(ContractSuite):
    target = OnFile()


class TestMemory(ContractSuite):
    target = InMemory()
