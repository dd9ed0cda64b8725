"""Rows of a batch side by side: what a network says of them does not depend on the number of threads."""

import pytest
import torch
from support.tiny_models import config, judged

from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.guidance.micro_batches import in_micro_batches

CPU = torch.device("cpu")


@pytest.mark.parametrize("threads, rows, parts", [(1, 6, 1), (2, 6, 2), (4, 6, 4), (4, 3, 3), (5, 2, 2), (2, 1, 1)])
def test_every_row_is_asked_for_once_and_threads_are_shared(restore_threads, threads, rows, parts):
    torch.set_num_threads(threads)
    x, seen = torch.randn(rows, 3), []

    def function(part):
        assert not torch.is_grad_enabled()
        seen.append((part.start, part.stop, torch.get_num_threads()))
        return 2 * x[part]

    for _ in range(2):
        seen.clear()
        assert torch.equal(in_micro_batches(function, rows, CPU), 2 * x)
        assert sorted(range(rows)) == sorted(i for start, stop, _ in seen for i in range(start, stop))
        assert len(seen) == parts and all(n == (threads if parts == 1 else threads // parts) for *_, n in seen)
        assert torch.get_num_threads() == threads and torch.is_grad_enabled()


def test_an_error_in_a_part_arrives(restore_threads):
    torch.set_num_threads(2)

    def function(part):
        if part.start:
            raise ValueError("in the second part")
        return torch.zeros(1)

    with pytest.raises(ValueError, match="in the second part"):
        in_micro_batches(function, 4, CPU)


def test_threads_that_come_later_have_what_was_asked_for(restore_threads):
    """Workers set a default for all threads that are still to come, which must not be theirs."""
    import threading

    torch.set_num_threads(3)
    in_micro_batches(lambda part: torch.zeros(part.stop - part.start), 3, CPU)
    found = []
    late = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    late.start(), late.join()
    assert found == [3]


@pytest.mark.parametrize("kind", ["placed", "if"])
def test_the_gradient_is_the_same_with_any_number_of_threads(folders, restore_threads, kind):
    guidance, gradients = load_guidance(config(folders[kind], precision="float32"), "cpu"), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        rgb = torch.rand(3, 16, 16, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        rgb.grad = judged(guidance, rgb, 1).gradient
        gradients.append(rgb.grad)
    assert (
        all(torch.allclose(g, gradients[0], rtol=1e-4, atol=1e-8) for g in gradients) and gradients[0].abs().max() > 0
    )
