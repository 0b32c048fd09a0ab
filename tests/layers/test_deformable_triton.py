"""The kernels run in Triton's interpreter, which must be chosen before Triton is imported: in a process of its own."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from maft.layers.deformable_attention import deformable_attention, deformable_attention_by_definition
from maft.layers.feature_levels import FeatureLevels

pytest.importorskip("triton")

SIZES = ((1, 3), (5, 4))

# A head width that is no power of two, queries that fill no tile, locations outside the maps, two images.
CHILD = """
import json, sys, torch
from maft.layers import deformable_triton
from maft.layers.deformable_attention import deformable_attention_by_definition
from maft.layers.feature_levels import FeatureLevels

deformable_triton._TILE = 64
torch.manual_seed(0)
levels = FeatureLevels.of(SIZES, torch.device("cpu"))
values = torch.randn(2, len(levels.centres), 2, 5)
locations = torch.rand(2, 9, 2, 2, 2, 2) * 1.6 - 0.3
locations[0, 0, 0, 0, 0] = torch.tensor([1e6, 0.5])
locations[1, 2, 1, 1, 0] = torch.tensor([0.5, -1e6])
weights = torch.rand(2, 9, 2, 4).softmax(-1).view(2, 9, 2, 2, 2)

def run(form, kind):
    tensors = [values.to(kind), locations, weights.to(kind)]
    inputs = [tensor.clone().requires_grad_() for tensor in tensors]
    output = form(inputs[0], levels, *inputs[1:])
    cotangent = torch.linspace(-1, 1, output.numel()).view_as(output).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, inputs, cotangent)]

expected = run(deformable_attention_by_definition, torch.float32)
differences = {}
for kind in (torch.float32, torch.bfloat16):
    tensors = run(deformable_triton.fused, kind)
    assert [t.dtype for t in tensors] == [kind, kind, torch.float32, kind]
    differences[str(kind)] = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(tensors, expected)]
locations[0, 1, 1, 0, 0, 1] = torch.nan
spoilt = deformable_triton.fused(values, levels, locations, weights).view(2, 9, 2, 5).isnan()
json.dump([differences, spoilt.any(-1).nonzero().tolist(), sorted(deformable_triton._failed)], sys.stdout)
""".replace("SIZES", repr(SIZES))


def test_the_kernels_are_deformable_attention_by_definition_in_value_and_gradient():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    differences, spoilt, failed = json.loads(done.stdout)
    assert max(differences["torch.float32"]) < 1e-5
    assert max(differences["torch.bfloat16"]) < 2e-2
    assert spoilt == [[0, 1, 1]]
    assert failed == []


def problem(device, dtype=torch.float32):
    levels = FeatureLevels.of(SIZES, torch.device(device))
    values = torch.randn(2, len(levels.centres), 4, 6, dtype=dtype, device=device)
    locations = torch.rand(2, 13, 4, 2, 5, 2, device=device) * 1.6 - 0.3
    weights = torch.rand(2, 13, 4, 10, device=device).softmax(-1).view(2, 13, 4, 2, 5)
    return levels, [tensor.requires_grad_() for tensor in (values, locations, weights)]


def test_a_gpu_that_is_only_imagined_gets_the_kernel():
    with FakeTensorMode():
        levels, inputs = problem("cuda", torch.bfloat16)
        output = deformable_attention(inputs[0], levels, *inputs[1:])
    assert output.shape == (2, 13, 24) and output.dtype == torch.bfloat16 and output.device.type == "cuda"
    assert "maft_deformable_attention" in output.grad_fn.name()


def test_a_kernel_that_does_not_compile_is_said_once_and_replaced_by_the_plain_form(monkeypatch, caplog):
    from maft.layers import deformable_triton

    monkeypatch.setattr(deformable_triton, "_failed", set())
    levels, inputs = problem("cpu")
    # Outside of its interpreter Triton has no driver for CPU tensors.
    for _ in range(2):
        output = deformable_triton.fused(inputs[0], levels, *inputs[1:])
        gradients = torch.autograd.grad(output.sum(), inputs)
    expected = deformable_attention_by_definition(inputs[0], levels, *inputs[1:])
    torch.testing.assert_close(output, expected)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected.sum(), inputs)):
        torch.testing.assert_close(gradient, wanted)
    assert [record.args[0] for record in caplog.records] == ["forward", "backward"]


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_kernels_run_on_the_gpu(monkeypatch, dtype, tolerance):
    from maft.layers import deformable_triton

    monkeypatch.setattr(deformable_triton, "_failed", set())
    levels, inputs = problem("cuda", dtype)
    output = deformable_attention(inputs[0], levels, *inputs[1:])
    on_cpu = [tensor.detach().cpu().float().requires_grad_() for tensor in inputs]
    expected = deformable_attention_by_definition(on_cpu[0], FeatureLevels.of(SIZES, torch.device("cpu")), *on_cpu[1:])
    assert not deformable_triton._failed
    ours = [output, *torch.autograd.grad(output.float().sum(), inputs)]
    for result, wanted in zip(ours, [expected, *torch.autograd.grad(expected.sum(), on_cpu)]):
        torch.testing.assert_close(result.cpu().float(), wanted, atol=tolerance, rtol=tolerance)
