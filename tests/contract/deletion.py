"""The embedded engine with one statement missing, and whether any test notices.

Run as a program it is one such engine on one form: ``python -m tests.contract.deletion claim:153:12 memory``. Its exit
status is `CAUGHT`, `BY_CHANCE` or `UNNOTICED`; its last line says by which test.
"""

from __future__ import annotations

import ast
import logging
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

EMBEDDED = Path(__file__).parents[2] / "src" / "telex" / "engines" / "embedded"
PACKAGE = "telex.engines.embedded"
MODULES = ("claim", "settle", "expire")
FORMS = ("file", "memory")
CAUGHT, BY_CHANCE, UNNOTICED = 10, 11, 12
"""Exit statuses: by a test that is named for it, by any other, by none. Another one: nothing was tried."""
PATIENCE = 2.0
LIMIT = 10.0
"""As in the kit of the contract suite, but short: with a statement missing, waiting is how most tests fail."""
MEMORY = 4 * 2**30
"""Bytes of address space: a loop that lost its end must not take the machine with it."""

NOTICED_BY: dict[str, tuple[str, ...]] = {
    "claim.__init__": ("test_consumers_of_a_source_share",),
    "claim.claim": (
        "test_consumers_of_a_source_share",
        "test_failures_count_exactly",
        "test_stored_order_per_key",
        "test_replaying_a_slice",
        "test_who_wants_nothing_costs_nothing",
    ),
    "claim._items": ("test_one_trial_is_in_hand_at_a_time", "test_one_trial_is_in_hand_of_all_sources"),
    "claim._is_spared": ("test_among_all_sources_the_least_blamed_is_next",),
    "claim._takes": (
        "test_among_all_sources_the_least_blamed_is_next",
        "test_a_suspect_does_not_wait_for_one_that_nobody_takes",
    ),
    "claim._least_blame": ("test_among_all_sources_the_least_blamed_is_next",),
    "claim._due": ("test_failures_count_exactly",),
    "claim._lease_item": (
        "test_losses_and_failures_add_up",
        "test_while_it_waits_for_a_retry",
        "test_while_its_key_waits_for_a_retry",
    ),
    "claim._past": ("test_replaying_a_slice", "test_replaying_beside_what_is_in_hand"),
    "claim._log": (
        "test_a_full_hand_claims_no_empty_ranges",
        "test_consumers_of_a_source_share",
        "test_a_busy_topic_starves_no_other",
    ),
    "claim._advance": ("test_consumers_of_a_source_share",),
    "claim._span": (
        "test_one_of_a_queue",
        "test_in_a_queue_whose_consumer_is_lost",
        "test_a_range_that_begins_where_another_lies_is_handed_out_all_the_same",
    ),
    "claim._rows": ("test_replaying_beside_what_is_in_hand",),
    "claim._write_marks": (
        "test_consumers_of_a_source_share",
        "test_all_of_a_queue",
        "test_in_a_queue_whose_consumer_is_lost",
        "test_in_a_queue_whose_settlement_fails",
    ),
    "claim._lanes": (
        "test_stored_order_per_key",
        "test_a_busy_key_starves_no_other",
        "test_a_newcomer_gets_lanes_of_one_that_is_never_idle",
        "test_suspects_of_a_lane_are_handed_out_one_at_a_time",
    ),
    "claim._held": (
        "test_the_window_bounds_keys_that_waited",
        "test_followers_take_room_from_other_keys",
        "test_suspects_of_a_lane_are_handed_out_one_at_a_time",
    ),
    "claim._give_followers": (
        "test_messages_that_follow_a_held_one_come_with_it_in_order",
        "test_a_follower_that_must_wait_itself_does_not_come_with_the_first",
    ),
    "claim._give_held": (
        "test_a_retried_key_waits_and_others_flow",
        "test_while_its_key_waits_for_a_retry",
        "test_what_turns_out_to_be_somebody_elses_is_told",
        "test_suspects_of_a_lane_are_handed_out_one_at_a_time",
        "test_one_suspect_is_in_hand_however_many_lanes",
    ),
    "claim._lane": (
        "test_stored_order_per_key",
        "test_released_messages_keep_their_place",
        "test_one_transaction_parks_only_so_many",
        "test_a_lane_that_turns_out_to_be_somebody_elses_is_not_claimed",
    ),
    "claim._lane_span": (
        "test_one_of_a_lane",
        "test_a_retried_key_waits_and_others_flow",
        "test_followers_take_room_from_other_keys",
        "test_fresh_messages_of_a_lost_owners_lanes_are_on_trial",
        "test_in_a_lane_whose_settlement_fails",
    ),
    "claim._lease_alone": ("test_fresh_messages_of_a_lost_owners_lanes_are_on_trial",),
    "claim._park": ("test_a_retried_key_waits_and_others_flow", "test_one_transaction_parks_only_so_many"),
    "claim._took": ("test_released_messages_keep_their_place", "test_a_lane_whose_owner_was_lost_starts_with_one"),
    "claim._bury": ("test_one_of_a_queue", "test_a_run_that_is_gone", "test_is_logged"),
    "claim._lanes_in_turn": ("test_a_busy_key_starves_no_other", "test_the_least_blamed_lane_is_next"),
    "claim.tokens": ("test_consumers_of_a_source_share",),
    "settle.commit": ("test_a_failed_commit_settles_nothing", "test_the_window_bounds_what_is_in_hand"),
    "settle.roll_back": ("test_a_failed_commit_settles_nothing",),
    "settle.micros": ("test_consumers_of_a_source_share",),
    "settle.settle": (
        "test_a_failed_commit_settles_nothing",
        "test_what_emits_to_a_channel_of_another_kind_is_buried",
        "test_the_same_decision_again_gets_the_same_answer",
    ),
    "settle._refused": ("test_what_emits_to_a_channel_of_another_kind_is_buried",),
    "settle.answer": ("test_a_failed_commit_settles_nothing", "test_the_same_decision_again_gets_the_same_answer"),
    "settle.lose": (
        "test_leases_that_were_held_too_long",
        "test_a_failed_commit_lets_no_lease_go",
        "test_a_stale_lease_settles_nothing",
    ),
    "settle._settle_span": (
        "test_a_failed_commit_settles_nothing",
        "test_what_turns_out_to_be_somebody_elses_is_told",
        "test_emissions_leave_with_the_settlement",
        "test_one_trial_is_in_hand_at_a_time",
    ),
    "settle._write": ("test_a_failed_commit_settles_nothing", "test_settling_out_of_order"),
    "settle._settle_item": (
        "test_a_failed_commit_settles_nothing",
        "test_what_turns_out_to_be_somebody_elses_is_told",
        "test_what_a_retried_message_emits_leaves_once",
    ),
    "settle._carry_out": (
        "test_a_failed_commit_settles_nothing",
        "test_what_turns_out_to_be_somebody_elses_is_told",
        "test_after_a_dead_letter_the_key_goes_on",
        "test_a_release_keeps_what_was_counted",
        "test_among_suspects_of_a_queue_the_least_blamed_is_next",
    ),
    "settle._to_item": ("test_a_failed_commit_settles_nothing",),
    "settle._update": (
        "test_a_failed_commit_settles_nothing",
        "test_what_turns_out_to_be_somebody_elses_is_told",
    ),
    "settle._bury": ("test_a_reject_leaves_the_source",),
    "settle._state": ("test_failures_count_exactly", "test_a_retried_key_waits_and_others_flow"),
    "settle._with": (
        "test_a_letter_keeps_message_and_history",
        "test_a_release_keeps_what_was_counted",
    ),
    "settle._drop": ("test_a_failed_commit_settles_nothing", "test_after_a_dead_letter_the_key_goes_on"),
    "settle._leave": ("test_a_failed_commit_settles_nothing",),
    "expire.expire_consumer": (
        "test_the_end_of_a_process_leaves_nothing_of_it",
        "test_a_lane_whose_owner_was_lost_starts_with_one",
        "test_a_redriven_suspect_of_an_ordered_source_is_on_trial",
    ),
    "expire.expire_member": ("test_the_end_of_a_process_leaves_nothing_of_it",),
    "expire.stopped_members": ("test_who_is_late_may_have_stopped",),
    "expire._to_items": ("test_the_end_of_a_process_leaves_nothing_of_it",),
}
"""The tests that notice, by the function that misses a statement. A test that happens to fail is no proof."""

Method = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a module.

    Attributes:
        function: The function it stands in.
        text: Its first line.
    """

    module: str
    line: int
    column: int
    function: str
    text: str

    @property
    def place(self) -> str:
        """How it is named on the command line."""
        return f"{self.module}:{self.line}:{self.column}"

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.function} {self.text}"[:90]


def statements() -> list[Statement]:
    """All that have an effect, of all modules, as they stand."""
    found = [statement for module in MODULES for statement in _of_module(module)]
    return sorted(found, key=lambda statement: (MODULES.index(statement.module), statement.line))


def _of_module(module: str) -> Iterator[Statement]:
    source = (EMBEDDED / f"{module}.py").read_text()
    lines = source.splitlines()
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        known = {argument.arg for argument in [*function.args.args, *function.args.kwonlyargs]}
        for node in _in_order(function.body):
            if _has_effect(node, known):
                text = lines[node.lineno - 1].strip()
                yield Statement(module, node.lineno, node.col_offset, function.name, text)
            known.update(_bound_by(node))


def _in_order(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body and of all bodies in it, as they stand."""
    for node in body:
        yield node
        for field in ("body", "orelse", "finalbody"):
            yield from _in_order(getattr(node, field, ()))
        for case in getattr(node, "cases", ()):
            yield from _in_order(case.body)


def _bound_by(node: ast.AST) -> Iterator[str]:
    """Local names that a statement binds, without those that the statements in it bind."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.stmt):
            yield from _bound_by(child)


def _has_effect(node: ast.stmt, known: set[str]) -> bool:
    """Whether the function goes on without it, and differently: not so without a name that is never bound then."""
    match node:
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Delete() | ast.Continue() | ast.Break():
            return True
        case ast.Return() | ast.If() | ast.For() | ast.While() | ast.Match():
            return True
        case ast.Assign():
            return known.issuperset(_bound_by(node))
    return False


class _Without(ast.NodeTransformer):
    def __init__(self, line: int, column: int) -> None:
        self.place = line, column
        self.deleted = 0

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.stmt) and (node.lineno, node.col_offset) == self.place:
            self.deleted += 1
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, place: tuple[int, int]) -> None:
        super().__init__(name, path)
        self._place = place

    def get_code(self, fullname: str) -> CodeType:
        mutant = _Without(*self._place)
        tree = mutant.visit(ast.parse(self.get_data(self.path)))
        assert mutant.deleted == 1, f"{mutant.deleted} statements begin at {self._place} of {self.path}"
        code: CodeType = compile(tree, self.path, "exec")
        return code


class _Finder(MetaPathFinder):
    """Finds one module with a statement missing, and no other."""

    def __init__(self, module: str, place: tuple[int, int]) -> None:
        self._name = f"{PACKAGE}.{module}"
        self._place = place
        self.loaded = False

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        spec = PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(fullname, spec.origin, self._place)
        self.loaded = True
        return spec


def _suites(form: str) -> Iterator[type]:
    """The classes of tests, on one form; those of the application last, since they are slow."""
    from telex.testing.contract import AppSuite, EngineSuite

    from ..engines.embedded.test_claiming import ClaimSuite
    from ..engines.embedded.test_damage import DamageSuite
    from ..engines.embedded.test_settling import SettleSuite
    from .targets import InMemory, OnFile

    target = OnFile() if form == "file" else InMemory()
    for suite in (EngineSuite, SettleSuite, ClaimSuite, DamageSuite, AppSuite):
        yield type(suite.__name__, (suite,), {"target": target})


def _methods(form: str, first: Sequence[str]) -> list[tuple[str, Method]]:
    """All tests, some of them first."""
    found: dict[str, Method] = {}
    for suite in _suites(form):
        names = [name for name in dir(suite) if name.startswith("test_")]
        assert not found.keys() & names, "two tests of one name"
        found.update((name, getattr(suite(), name)) for name in names)
    missing = [name for name in first if name not in found]
    assert not missing, f"no such tests: {missing}"
    return [(name, found[name]) for name in [*first, *(name for name in found if name not in first)]]


def leave_out(statement: Statement | None, form: str) -> tuple[int, str]:
    """Runs the tests until one fails: those named for it, then all others. Once in a process.

    Args:
        statement: What to leave out; None: all is there.
        form: One of `FORMS`.

    Returns:
        The exit status, and what to say.
    """
    first: Sequence[str] = ()
    if statement is not None:
        module, first = statement.module, NOTICED_BY[f"{statement.module}.{statement.function}"]
        finder = _Finder(module, (statement.line, statement.column))
        sys.meta_path.insert(0, finder)
        import_module(f"{PACKAGE}.{module}")
        assert finder.loaded, "the module was imported before it could be changed"
    from telex.testing.contract import kit

    kit.PATIENCE, kit.LIMIT = PATIENCE, LIMIT
    methods = _methods(form, first)
    for number, (name, method) in enumerate(methods, 1):
        try:
            method()
        except Exception as error:
            status = CAUGHT if number <= len(first) else BY_CHANCE
            return status, f"{name}: {type(error).__name__}: {str(error)[:200]}"
    return UNNOTICED, f"{len(methods)} tests"


def main() -> None:
    """Leaves a statement out and tells what happened."""
    logging.basicConfig(handlers=[logging.NullHandler()])  # Silent, but not off: there are tests of what is logged.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    place, form = sys.argv[1:]
    statement = next(one for one in statements() if one.place == place) if place else None
    status, text = leave_out(statement, form)
    print(text, flush=True)
    os._exit(status)  # A thread of the mutant may be in a loop without an end.


if __name__ == "__main__":
    main()
