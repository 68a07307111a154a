"""The network against Figure 2 of the paper."""

import numpy as np
import pytest
import torch

from locdiff.model.cs_unet import CSiren, CSUNet, sinusoidal_embedding
from locdiff.model.whitening import Whitening


def test_a_c_siren_block_is_the_equation_of_figure_2a():
    torch.manual_seed(0)
    block = CSiren(3, 4, d_time=6, d_image=5, dropout=0.0).double()
    x, time, image = (torch.randn(2, d, dtype=torch.float64) for d in (3, 6, 5))
    w = {name: value for name, value in block.named_parameters()}
    hidden = time @ w["from_time.0.weight"].T + w["from_time.0.bias"]
    hidden = hidden * torch.sigmoid(hidden)
    scale_and_shift = hidden @ w["from_time.2.weight"].T + w["from_time.2.bias"]
    alpha, epsilon = scale_and_shift[:, :4], scale_and_shift[:, 4:]
    h_x = x @ w["from_x.weight"].T + w["from_x.bias"]
    h_image = image @ w["from_image.weight"].T + w["from_image.bias"]
    h = ((1 + alpha) * h_x + epsilon + h_image) @ w["out.weight"].T + w["out.bias"]
    torch.testing.assert_close(block(x, time, image), torch.sin(h))


@pytest.mark.parametrize(("d", "width", "depth"), [(256, 32, 6), (64, 16, 2), (9, 9, 4), (1, 1, 2)])
def test_the_u_narrows_to_the_bottleneck_and_widens_back(d, width, depth):
    network = CSUNet(d, d_image=5, width=width, depth=depth, d_time=8, dropout=0.0)
    widths = [d, *(block.out.out_features for block in [*network.down, *network.up])]
    assert len(widths) == depth + 1 and widths == widths[::-1]
    assert (
        widths[depth // 2] == width == min(widths)
        and widths[: depth // 2 + 1] == sorted(widths[: depth // 2 + 1])[::-1]
    )


def trained(d=16):
    torch.manual_seed(1)
    network = CSUNet(d, d_image=5, width=4, depth=4, d_time=8, dropout=0.0)
    torch.nn.init.normal_(network.head.weight)
    return network


def test_one_picture_serves_all_its_samples():
    network, x, image = trained(), torch.randn(3, 7, 16), torch.randn(3, 5)
    together = network(x, torch.tensor(4), image[:, None])
    one_by_one = network(x.reshape(21, 16), torch.full((21,), 4), image.repeat_interleave(7, dim=0))
    torch.testing.assert_close(together.reshape(21, 16), one_by_one)


def test_the_output_depends_on_all_inputs_and_trains_all_parameters():
    network, x, image = trained(), torch.randn(2, 16), torch.randn(2, 5)
    out = network(x, torch.tensor([3, 3]), image)
    assert not torch.allclose(out, network(x + 1, torch.tensor([3, 3]), image))
    assert not torch.allclose(out, network(x, torch.tensor([3, 3]), image + 1))
    assert not torch.allclose(out[1], network(x, torch.tensor([3, 50]), image)[1])
    out.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def correlated(n, d=5, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(1e-3 * rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)).float()


def test_whitened_embeddings_have_no_mean_and_unit_covariance_whatever_their_size():
    images = correlated(400)
    whitening = Whitening(5)
    assert torch.equal(whitening(images), images)  # until it is fitted
    whitening.fit(images, 0.0)
    for factor in (1.0, 1000.0):
        other = Whitening(5).double()
        other.fit(factor * images, 0.0)
        seen = other((factor * images).double())
        torch.testing.assert_close(seen.mean(dim=0).float(), torch.zeros(5), rtol=0, atol=2e-2)
        torch.testing.assert_close(seen.T.cov(correction=0).float(), torch.eye(5), rtol=0, atol=2e-2)
    more = torch.cat([images, torch.full((400, 2), 7.0)], dim=-1)
    torch.testing.assert_close(whitening(more)[:, :5], whitening(images), rtol=1e-3, atol=1e-3)
    assert (whitening(more)[:, 5:] == 7).all()


def test_the_floor_of_whitening_keeps_directions_without_variance_small():
    images = correlated(400)
    images[:, 1] = 2 * images[:, 0]  # no variance across
    whitening = Whitening(5)
    whitening.fit(images, 0.01)
    values = torch.linalg.eigvalsh(whitening(images).T.cov())
    variance = torch.linalg.eigvalsh(images.double().T.cov(correction=0))
    expected = (variance / (variance + 0.01 * variance.mean())).sort().values
    torch.testing.assert_close(values, expected.float(), rtol=0.02, atol=1e-3)
    for wrong in (torch.ones(3, 5), correlated(1)):
        with pytest.raises(ValueError, match="all the same"):
            Whitening(5).fit(wrong, 0.01)


def test_a_network_that_whitens_does_so_before_anything_else():
    images, x = correlated(50), torch.randn(50, 16)
    torch.manual_seed(0)
    plain = CSUNet(16, 5, 4, 2, 8, 0.0)
    torch.manual_seed(0)
    white = CSUNet(16, 5, 4, 2, 8, 0.0, whiten=True)
    for network in (plain, white):
        torch.manual_seed(1)
        torch.nn.init.normal_(network.head.weight)
    white.whiten.fit(images, 0.01)
    t = torch.tensor(3)
    torch.testing.assert_close(white(x, t, images), plain(x, t, white.whiten(images)))
    assert not torch.allclose(white(x, t, images), plain(x, t, images))


def test_the_output_is_zero_at_the_start():
    network = CSUNet(16, d_image=5, width=4, depth=4, d_time=8, dropout=0.0)
    assert (network(torch.randn(2, 16), torch.tensor([1, 2]), torch.randn(2, 5)) == 0).all()


def test_what_comes_down_is_added_to_its_mirror_image():
    """With every block silenced, only the skip connections are left, and they end in x itself."""
    network = trained()
    for block in [*network.down, *network.up]:
        torch.nn.init.zeros_(block.out.weight)
        torch.nn.init.zeros_(block.out.bias)
    x = torch.randn(2, 16)
    torch.testing.assert_close(network(x, torch.tensor(5), torch.randn(2, 5)), network.head(x))


def test_time_embeddings_tell_the_steps_apart():
    steps = sinusoidal_embedding(torch.arange(1, 101), 200)
    assert steps.shape == (100, 200)
    distance = torch.cdist(steps, steps) + 100 * torch.eye(100)
    assert distance.min() > 0.1
    assert sinusoidal_embedding(torch.tensor(0), 4).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_u_needs_as_many_blocks_up_as_down(depth):
    with pytest.raises(ValueError, match="even"):
        CSUNet(16, 5, 4, depth, 8, 0.0)
