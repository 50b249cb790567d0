"""Learning rates: pure functions of the step, with the formula, the peak and the ends that they promise."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyres as tr
from tinyres import schedule

rates = st.floats(1e-4, 10)
totals = st.integers(1, 500)
parts = st.floats(0, 0.99)
schedules = st.one_of(
    st.builds(schedule.constant, rates),
    st.builds(schedule.steps, rates, st.lists(st.integers(0, 500), max_size=4), gamma=st.floats(0.01, 1)),
    st.builds(schedule.cosine, rates, totals),
    st.builds(schedule.one_cycle, rates, totals, warmup=parts),
    st.builds(schedule.linear_warmup, st.builds(schedule.cosine, rates, totals), st.integers(0, 500)),
)


@given(schedules, st.lists(st.integers(0, 600), min_size=1, max_size=30))
def test_a_rate_depends_on_the_step_alone(lr, steps):
    first = {step: lr(step) for step in range(601)}
    assert [lr(step) for step in steps] == [first[step] for step in steps]
    assert all(rate >= -1e-15 for rate in first.values())  # 0 at the end, but for rounding


@given(rates, st.integers(0, 10**9))
def test_constant(lr, step):
    assert schedule.constant(lr)(step) == lr


@given(rates, st.lists(st.integers(1, 100), max_size=4), st.floats(0.01, 1), st.integers(0, 120))
def test_steps_multiply_at_each_milestone(lr, milestones, gamma, step):
    expected = lr
    for milestone in milestones:
        if step >= milestone:
            expected *= gamma
    assert schedule.steps(lr, milestones, gamma=gamma)(step) == pytest.approx(expected, rel=1e-12)


def test_the_papers_schedule():
    """Section 4.2: from 0.1, divided by 10 at 32k and 48k iterations."""
    lr = schedule.steps(0.1, [32_000, 48_000])
    expected = {0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}
    assert {step: lr(step) for step in expected} == pytest.approx(expected)


def test_the_papers_warm_up():
    """Section 4.2, for ResNet-110: a lower rate at first, then 0.1 again."""
    lr = schedule.linear_warmup(schedule.steps(0.1, [32_000, 48_000]), 400)
    assert lr(0) == pytest.approx(0.1 / 400)
    assert lr(399) == lr(400) == lr(31_999) == 0.1


@given(rates, totals, st.floats(0, 1))
def test_cosine_falls_from_the_rate_to_the_final_one(lr, total, part):
    final = part * lr
    rate = schedule.cosine(lr, total, final=final)
    values = [rate(step) for step in range(total + 1)]
    assert values[0] == pytest.approx(lr)
    assert values[-1] == pytest.approx(final, abs=1e-12)
    assert rate(total + 100) == values[-1]
    assert all(a >= b - 1e-12 for a, b in pairwise(values))
    for step, value in enumerate(values):
        assert value == pytest.approx(final + (lr - final) * math.cos(math.pi * step / total / 2) ** 2, abs=1e-9)
        assert value + values[total - step] == pytest.approx(lr + final)  # point symmetry


@given(rates, totals, parts, st.floats(0, 1))
def test_one_cycle_rises_to_the_rate_and_falls_to_the_final_one(lr, total, warmup, part):
    final = part * lr
    rate = schedule.one_cycle(lr, total, warmup=warmup, final=final)
    values = [rate(step) for step in range(total + 1)]
    top = max(0, math.ceil(warmup * total) - 1)
    assert values[top] == max(values) == pytest.approx(lr)
    assert all(a < b for a, b in pairwise(values[: top + 1]))
    assert all(a >= b - 1e-12 for a, b in pairwise(values[top:]))
    assert values[-1] == pytest.approx(final, abs=1e-12)
    assert rate(total + 100) == pytest.approx(final, abs=1e-12)
    if top:
        assert values[0] == pytest.approx(lr / (top + 1))


def test_one_cycle_against_hand():
    rate = schedule.one_cycle(1.0, 10, warmup=0.4)
    expected = [0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]
    assert [rate(step) for step in range(11)] == pytest.approx(expected)


@given(schedules, st.integers(0, 100), st.integers(0, 200))
def test_warm_up_scales_the_first_steps_and_no_other(lr, length, step):
    warm = schedule.linear_warmup(lr, length)(step)
    if step < length - 1:
        assert warm == pytest.approx(lr(step) * (step + 1) / length)
    else:
        assert warm == lr(step)


@pytest.mark.parametrize("make", [schedule.cosine, schedule.one_cycle])
@pytest.mark.parametrize("total", [0, -1])
def test_total_must_be_positive(make, total):
    with pytest.raises(ValueError, match=rf"total: got {total} steps, expected 1 or more"):
        make(0.1, total)


@pytest.mark.parametrize("warmup", [-0.1, 1, 1.5, math.nan])
def test_warmup_is_a_part(warmup):
    with pytest.raises(ValueError, match=rf"warmup: got {warmup}, expected 0 or more and less than 1"):
        schedule.one_cycle(0.1, 10, warmup=warmup)


@given(st.integers(0, 30), st.integers(0, 30))
def test_a_scheduler_sets_the_rate_of_each_step_and_goes_on_from_its_state(steps, more):
    optimizer = tr.optim.SGD([{"params": [tr.nn.Parameter([1.0])], "lr_scale": 0.5}], lr=1.0)
    rate = schedule.one_cycle(0.3, 40)
    scheduler = schedule.Scheduler(optimizer, rate)
    for step in range(steps):
        assert scheduler.lr == rate(step)
        assert optimizer.groups[0]["lr"] == 0.5 * rate(step)
        scheduler.step()
    again = schedule.Scheduler(optimizer, rate)
    again.load_state_dict(scheduler.state_dict())
    for _ in range(more):
        again.step()
    assert again.lr == rate(steps + more) == 2 * optimizer.groups[0]["lr"]


@pytest.mark.parametrize("state", [{}, {"steps": -1}, {"steps": 1, "last_epoch": 1}])
def test_a_state_of_something_else_is_refused(state):
    scheduler = schedule.Scheduler(tr.optim.SGD([tr.nn.Parameter([1.0])], lr=1.0), schedule.constant(0.1))
    with pytest.raises(ValueError, match=r"state: got .*, expected \{'steps': ...\}"):
        scheduler.load_state_dict(state)
    assert scheduler.steps == 0
