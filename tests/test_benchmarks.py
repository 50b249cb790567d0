"""What benchmarks compute of what they have measured."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import ablation
import accuracy

from tinyres import train

PARTS, SEEDS = ablation.design()
SIGNS = 2.0 * PARTS - 1


def test_each_part_is_in_half_of_the_runs_of_each_seed_and_has_nothing_to_do_with_the_others():
    np.testing.assert_array_equal(SIGNS.T @ SIGNS, 16 * np.eye(8))
    assert SEEDS.tolist() == np.repeat(range(4), 4).tolist()
    for seed in range(4):
        np.testing.assert_array_equal(SIGNS[seed == SEEDS].sum(0), np.zeros(8))


def test_no_two_parts_together_look_like_a_third():
    pairs = np.array([SIGNS[:, i] * SIGNS[:, j] for i in range(8) for j in range(i)])
    np.testing.assert_array_equal(pairs @ SIGNS, np.zeros((28, 8)))


@given(st.lists(st.floats(-2, 2), min_size=8, max_size=8), st.lists(st.floats(50, 99), min_size=4, max_size=4))
def test_effects_are_found_again(effects, levels):
    """Of scores that are a seed's level and the parts' effects, and of nothing else; with two parts that only help
    together, the error says that something is left."""
    scores = np.array(levels)[SEEDS] + PARTS @ np.array(effects)
    found, error = ablation.effects(PARTS, SEEDS, scores)
    np.testing.assert_allclose(found, effects, atol=1e-9)
    assert error < 1e-9
    found, error = ablation.effects(PARTS, SEEDS, scores + PARTS[:, 0] * PARTS[:, 3])
    np.testing.assert_allclose(found[[1, 2, 4, 5, 6, 7]], np.array(effects)[[1, 2, 4, 5, 6, 7]], atol=1e-9)
    assert error > 0.1


@pytest.mark.parametrize("parts", PARTS)
def test_each_run_is_a_configuration(parts):
    train.Config(**ablation.BASE | ablation.settings_of(parts))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0, 1))
def test_an_accuracy_is_reached_where_it_is_never_lost_again(accuracies, goal):
    epochs = [{"minutes": float(i), "accuracy": a} for i, a in enumerate(accuracies)]
    found = accuracy.minutes_to(goal, epochs)
    reached = [i for i in range(len(epochs)) if min(accuracies[i:]) >= goal]
    assert found == (min(reached) if reached else None)
