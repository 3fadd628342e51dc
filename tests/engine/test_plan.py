from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.engine.plan import Plan, before
from transship.engine.step import Context, Cost, Resource, Result, Step, Value


def step(key: str, needs: tuple[str, ...] = (), after: tuple[str, ...] = (), cost: Cost = Cost()) -> Step:  # noqa: B008
    def run(_: Context) -> Result:
        raise AssertionError("plans run nothing")

    def check(_: Value) -> bool:
        raise AssertionError("plans check nothing")

    return Step(key, key, Resource.CPU, run, check, needs, after, cost)


def test_costs_add_up() -> None:
    plan = Plan([step("a:1", cost=Cost(10, 2)), step("a:2", cost=Cost(5, 1))])
    assert plan.cost == Cost(15, 3)
    assert len(plan) == 2


def test_a_plan_may_be_empty() -> None:
    plan = Plan([])
    assert (len(plan), plan.cost, list(plan.ordered())) == (0, Cost(), [])


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ([step("a:1"), step("a:1")], ["a:1"]),
        ([step("a:1", needs=("b:1",))], ["a:1", "b:1"]),
        ([step("a:1", after=("b:1",))], ["a:1", "b:1"]),
        ([step("a:1", needs=("a:1",))], ["a:1"]),
        ([step("a:1", needs=("b:1",)), step("b:1", after=("c:1",)), step("c:1", needs=("a:1",))], ["a:1", "b:1", "c:1"]),
        ([step("a:\udcff")], ["a:"]),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused_by_name(steps: list[Step], named: list[str]) -> None:
    with pytest.raises(ValueError, match=named[0]) as caught:
        Plan(steps)
    assert all(key in str(caught.value) for key in named)


def test_who_waits_for_whom() -> None:
    plan = Plan([step("a:1"), step("b:1", needs=("a:1",)), step("c:1", needs=("a:1", "b:1"), after=("a:1",))])
    assert plan.needed_by == {"a:1": ("b:1", "c:1"), "b:1": ("c:1",), "c:1": ()}
    assert {key: set(others) for key, others in plan.followed_by.items()} == {
        "a:1": {"b:1", "c:1"},
        "b:1": {"c:1"},
        "c:1": set(),
    }


def test_a_subset_has_all_that_it_needs_and_waits_for_nothing_else() -> None:
    plan = Plan(
        [
            step("a:1"),
            step("a:2"),
            step("b:1", needs=("a:1",)),
            step("b:2", needs=("a:2",)),
            step("c", ("b:1",), ("b:2", "a:1")),
        ]
    )
    part = plan.subset(["c"])
    assert [each.key for each in part] == ["a:1", "b:1", "c"]
    assert part["c"].after == ("a:1",)
    with pytest.raises(ValueError, match="c:9"):
        plan.subset(["c:9"])


@given(st.lists(st.frozensets(st.integers(0, 30), max_size=4), max_size=30))
def test_the_order_puts_every_step_after_what_it_waits_for(edges: list[frozenset[int]]) -> None:
    steps = []
    for number, targets in enumerate(edges):
        earlier = [f"s:{target}" for target in targets if target < number]
        steps.append(step(f"s:{number}", needs=tuple(earlier[::2]), after=tuple(earlier[1::2])))
    seen: set[str] = set()
    for each in Plan(reversed(steps)).ordered():
        assert before(each) <= seen
        seen.add(each.key)
    assert len(seen) == len(steps)
