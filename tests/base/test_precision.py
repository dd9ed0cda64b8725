import pytest
import torch

from dreamfusion_ngp.base.precision import autocast, bfloat16_is_quick, choose_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    "capabilities, quick",
    [
        ({"cpu_name": "Intel Xeon", "avx512_f": True, "avx512_bf16": True, "amx_bf16": True}, True),
        ({"cpu_name": "Intel Xeon", "avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, False),
        ({"cpu_name": "AMD EPYC 9R14", "avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"cpu_name": "AMD EPYC 7R13", "avx2": True, "avx512_bf16": False}, False),
        ({"cpu_name": "Neoverse V1", "arm_bf16": True}, True),
        ({"cpu_name": "Intel Core", "l1d_cache_size": 49152}, False),
        ({}, False),
    ],
)
def test_a_cpu_multiplies_bfloat16_where_that_is_quicker(capabilities, quick, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert bfloat16_is_quick(CPU) is quick
    with autocast(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if quick else torch.float32)


def test_torch_that_cannot_tell_has_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not bfloat16_is_quick(CPU)


@pytest.mark.parametrize("capability, quick", [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_multiplies_bfloat16_from_sm_80_on(capability, quick, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert bfloat16_is_quick(CUDA) is quick


@pytest.mark.parametrize(
    "precision, device, dtype",
    [
        ("auto", CPU, None),
        ("float16", CPU, None),
        ("float32", CPU, torch.float32),
        ("bfloat16", CPU, torch.bfloat16),
        ("auto", CUDA, None),
        ("float16", CUDA, torch.float16),
        ("float32", CUDA, torch.float32),
    ],
)
def test_the_type_of_a_network_is_what_the_config_says(precision, device, dtype):
    assert choose_dtype(precision, device) is dtype
