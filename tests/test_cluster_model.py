"""What must hold of any sweep on any cluster."""

import math

import numpy as np
import pytest
from cluster_model import Cluster, play
from hypothesis import given
from hypothesis import strategies as st

CELLS = st.lists(st.tuples(st.floats(0.1, 50), st.integers(1, 80)), min_size=1, max_size=30)


@given(CELLS, st.integers(1, 6), st.integers(1, 4), st.floats(0, 20))
def test_without_failures_it_is_longest_first_scheduling(cells, nodes, slots, per_cell):
    outcome = play(cells, Cluster(nodes, slots, start=7.0, per_cell=per_cell))
    lengths = sorted((each * epochs + per_cell for each, epochs in cells), reverse=True)
    ends = np.full(nodes * slots, 7.0)
    for length in lengths:
        ends[np.argmin(ends)] += length
    assert outcome.seconds == pytest.approx(ends.max())
    assert outcome.lost == outcome.failures == 0
    total = sum(each * epochs for each, epochs in cells)
    assert outcome.busy == pytest.approx(total / (nodes * slots * outcome.seconds))


@given(CELLS, st.integers(1, 6), st.floats(0.1, 20), st.integers(0, 5))
def test_failures_lose_an_epoch_and_a_start_each_and_no_result(cells, nodes, failures, seed):
    cluster = Cluster(nodes, 2, per_cell=3.0, failures=failures, repair=30.0)
    outcome = play(cells, cluster, seed)
    longest = max(each for each, _ in cells)
    assert 0 <= outcome.lost <= outcome.failures * (longest + 3.0) * (1 + 1e-9)
    work = sum(each * epochs for each, epochs in cells)
    assert outcome.busy * 2 * nodes * outcome.seconds == pytest.approx(work)  # all was trained
    assert outcome == play(cells, cluster, seed)


def test_a_failed_node_takes_no_cell_until_it_is_repaired():
    # One node that fails after some 36 seconds on average, and is away for an hour each time.
    one = play([(1.0, 100)], Cluster(1, 1, failures=100.0, repair=3600.0))
    assert one.failures >= 1
    assert one.seconds > 3600 * one.failures
    # Both slots are away, and what one of them had does not go on in the other.
    two = play([(1.0, 100)] * 2, Cluster(1, 2, failures=100.0, repair=3600.0))
    assert two.failures >= 2
    assert two.seconds > 3600 * (two.failures / 2)
    assert math.isfinite(two.seconds)


def test_no_slots_are_refused():
    with pytest.raises(ValueError, match="no slot to train in"):
        play([(1.0, 1)], Cluster(0, 1))
