"""Integer products, against Python's own integers, and as they are exported."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.encoders.runtime import open_session

pytestmark = pytest.mark.torch
SCALE, ZERO = 0.05, 61


@pytest.fixture
def factors():
    import torch

    from retrieval.training.model.rounding import rounded

    torch.manual_seed(0)
    x, weight, bias = torch.randn(7, 20).clamp(-3, 3), torch.randn(20, 6), torch.randn(6)
    x[3, 5], x[4, 6] = 40.0, -40.0  # beyond the range
    return x, *rounded(weight), bias


def one_by_one(x, integers, scales, bias):
    """The same in Python's integers."""
    product = np.zeros((len(x), integers.shape[1]))
    for row in range(product.shape[0]):
        steps = [min(255, max(0, round(float(value) / SCALE) + ZERO)) - ZERO for value in x[row]]
        for out in range(product.shape[1]):
            total = sum(step * int(integers[place, out]) for place, step in enumerate(steps))
            product[row, out] = total * SCALE * float(scales[out]) + float(bias[out])
    return product


def test_a_product_is_that_of_whole_numbers(factors):
    from retrieval.training.model.rounding import integer_product

    product = integer_product(*factors, SCALE, ZERO).numpy()
    np.testing.assert_allclose(product, one_by_one(*factors), atol=1e-5)
    x, integers, scales, bias = factors
    plain, inside = (x @ (integers * scales) + bias).numpy(), [0, 1, 2, 5, 6]
    np.testing.assert_allclose(product[inside], plain[inside], atol=0.5 * SCALE * float(20 * 127 * scales.max()))
    assert np.abs(product[inside] - plain[inside]).max() < 0.3 < np.abs(product[3] - plain[3]).max()


@pytest.fixture
def exported(tmp_path):
    """Exports a function of tensors, and returns a function that runs the graph."""
    import torch

    from retrieval.encoders.onnx_files import export, save

    def make(function, inputs, names):
        class Module(torch.nn.Module):
            def forward(self, *tensors):
                return function(*tensors)

        model = export(Module(), inputs, names, ["product"], {names[0]: {0: "n"}, "product": {0: "n"}}, fold=False)
        save(model, tmp_path / "graph.onnx")
        session = open_session(tmp_path / "graph.onnx")

        def run(*tensors):
            return session.run(None, dict(zip(names, (tensor.numpy() for tensor in tensors), strict=True)))[0]

        return run

    return make


def test_the_exported_graph_gives_the_same_row_by_row(factors, exported):
    from retrieval.training.model.rounding import integer_product

    x, integers, scales, bias = factors
    run = exported(lambda x: integer_product(x, integers, scales, bias, SCALE, ZERO), (x,), ["x"])
    together = run(x)
    np.testing.assert_allclose(together, one_by_one(*factors), atol=1e-4)
    for row in range(len(x)):
        np.testing.assert_array_equal(run(x[[row]])[0], together[row])


def test_it_is_exported_for_several_matrices_and_one_sequence_with_several(exported):
    import torch

    from retrieval.training.model.rounding import integer_product, rounded

    sequence, regions = torch.randn(5, 8), torch.randint(-127, 128, (3, 8, 4), dtype=torch.int8)
    run = exported(
        lambda s, r: integer_product(s, r, torch.tensor(0.1), None, SCALE, ZERO), (sequence, regions), ["s", "r"]
    )
    product = run(sequence, regions)
    assert product.shape == (3, 5, 4)
    for image in range(3):
        expected = one_by_one(sequence, regions[image], [0.1] * 4, [0.0] * 4)
        np.testing.assert_allclose(product[image], expected, atol=1e-4)
    x, weight = torch.randn(2, 3, 5, 8), torch.randn(3, 8, 4)
    product = exported(lambda x: integer_product(x, *rounded(weight), None, SCALE, ZERO), (x,), ["x"])(x)
    for image in range(2):
        for head in range(3):
            expected = one_by_one(x[image, head], *rounded(weight[head]), [0.0] * 4)
            np.testing.assert_allclose(product[image, head], expected, atol=1e-4)


def test_weights_are_rounded_on_a_scale_for_each_output():
    import torch

    from retrieval.training.model.rounding import rounded

    weight = torch.randn(2, 30, 4) * torch.tensor([1e-3, 1.0, 100.0, 0.0])
    integers, scales = rounded(weight)
    assert scales.shape == (2, 1, 4) and rounded(weight[0])[1].shape == (4,)
    assert (integers.abs().amax(1)[:, :3] == 127).all() and not integers[..., 3].any()
    assert ((integers * scales - weight).abs() <= 0.5001 * scales).all()
