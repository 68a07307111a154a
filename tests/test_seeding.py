"""Random numbers follow from the seed, the stream and the position of a picture, and from nothing else."""

import pytest
import torch

from locdiff.errors import InputError
from locdiff.seeding import PictureNoise, derive_seed


def test_seeds_differ_by_every_number_and_their_order():
    seeds = {derive_seed(*numbers) for numbers in ((1, 2), (2, 1), (1, 2, 3), (1, 3), (1,), (0, 1))}
    assert len(seeds) == 6 and derive_seed(1, 2) == derive_seed(1, 2) and all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_numbers_follow_from_the_seed_the_stream_and_the_position(kind):
    def numbers(*arguments, **options):
        return getattr(PictureNoise(*arguments, **options), kind)(3)

    first = numbers(5, 0, 4, 2)
    assert first.shape == (4, 2, 3) and torch.equal(first, numbers(5, 0, 4, 2))
    assert torch.equal(first[2:], numbers(5, 2, 2, 2)) and len(first.unique()) == first.numel()
    assert (
        not torch.isin(numbers(5, 0, 4, 2, stream=(1,)), first).any()
        and not torch.isin(numbers(6, 0, 4, 2), first).any()
    )
    assert numbers(5, 0, 0, 2).shape == (0, 2, 3)


def test_one_generator_gives_normal_and_then_uniform_numbers():
    random = PictureNoise(1, 0, 200, 50)
    normal, uniform = random.normal(4), random.uniform()
    assert normal.mean().abs() < 0.02 and normal.var().item() == pytest.approx(1, abs=0.02)
    assert uniform.shape == (200, 50, 1) and 0 <= uniform.min() and uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (1, -1)])
def test_impossible_requests_are_refused(count, seed):
    with pytest.raises(InputError, match="at least one sample and seed >= 0"):
        PictureNoise(seed, 0, 2, count)
