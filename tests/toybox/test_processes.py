"""Several processes of one training: what they return, how they end, and what is said of one that does not."""

import pytest
from support.members import abort_at_exit, die, diverge, fail, sum_beside_a_late_thread
from torch.multiprocessing import ProcessRaisedException

from dreamfusion_ngp.base.errors import DivergenceError, PriorError
from dreamfusion_ngp.toybox.prior.processes import run_group


def test_members_that_are_through_end_well_whatever_their_threads_do(tmp_path):
    """Where the interpreter is finalised this aborts about every other time: a thread of gloo asks for the GIL."""
    run_group(sum_beside_a_late_thread, 3, tmp_path)
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == ["6"] * 3


def test_the_end_of_the_interpreter_costs_nothing_and_no_output_is_lost(tmp_path):
    run_group(abort_at_exit, 2, tmp_path)
    assert [(tmp_path / f"{rank}.out").read_text() for rank in range(2)] == ["through\n"] * 2


def test_a_member_that_is_killed_is_one_clear_error():
    with pytest.raises(PriorError, match="^process 2 of 2 ended with status -9 before its work was done") as caught:
        run_group(die, 2)
    assert "\n" not in str(caught.value)


def test_a_member_that_fails_says_why():
    with pytest.raises(ProcessRaisedException, match="this is the reason"):
        run_group(fail, 2)


def test_an_error_of_a_member_that_users_can_cause_is_that_error():
    with pytest.raises(DivergenceError, match="^the loss is nan: stopped$"):
        run_group(diverge, 2)
