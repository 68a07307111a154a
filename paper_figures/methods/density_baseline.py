"""What the families with densities share: the prior of the training locations, and a calibration by unseen pictures."""

import math

import torch

from locdiff.model.location_prior import prior_of
from locdiff.sphere import pixels
from locdiff.sphere.healpix import healpix_transform
from methods.baseline import Baseline
from methods.densities import NSIDE, PixelDensities, WithPrior

SHARPNESS = tuple(2 ** (k / 4) for k in range(-12, 5))
SHARES = tuple(10 ** (k / 4) for k in range(-16, 0))  # of the prior


def prior_probs(data, l_max):
    """Return the probabilities (N,) of the pixels of NSIDE by the density of the locations of Embeddings.

    It is the prior of degree l_max that LocDiffusion starts from.
    """
    coeffs = prior_of(torch.from_numpy(data.lat_lon), l_max, photographers=data.photographers)
    return pixels.softmax(healpix_transform(l_max, NSIDE).synthesis(coeffs[None]))[0]


def best_share(own, prior):
    """Return the share of the prior of the largest likelihood, and the mean log density with it.

    `own` and `prior` (n,) are the log densities that the two give to true locations; the share is one of SHARES.
    """
    shares = torch.tensor(SHARES, dtype=torch.float64)[:, None]
    mixed = torch.logaddexp(own.double() + torch.log1p(-shares), prior.double() + shares.log()).mean(dim=1)
    best = int(mixed.argmax())
    return SHARES[best], mixed[best].item()


class DensityBaseline(Baseline):
    """A Baseline with densities: a subclass has densities(embeddings, sharpness) -> Densities.

    As LocDiffusion's, they are calibrated by pictures that training has not seen: `sharpness` and the `share` of the
    prior maximize the likelihood of their locations. Some density everywhere is needed, or one true location in a place
    that the family rules out would cost infinitely many nats.
    """

    sharpnesses = SHARPNESS  # that calibration chooses from

    def __init__(self, config):
        super().__init__(config)
        self.sharpness, self.share = 1.0, SHARES[0]

    @torch.no_grad()
    def finalize(self, data, validation=None, progress=True):
        """Find the prior, and choose its share and the sharpness by the `validation` pictures, if there are any."""
        self.prior = prior_probs(data, self.config.density_l_max)
        if validation is None:
            return
        embeddings, truth = validation.batch(range(len(validation)))
        prior, best = PixelDensities(self.prior.expand(len(truth), -1)).log_prob(truth), -math.inf
        for sharpness in self.sharpnesses:
            parts, start = [], 0
            for chunk in self.batches(embeddings):
                densities = self.densities(chunk, sharpness)
                parts.append(densities.log_prob(truth[start : start + len(chunk)]))
                start += len(chunk)
            share, value = best_share(torch.cat(parts), prior)
            if value > best:
                self.sharpness, self.share, best = sharpness, share, value

    def densities(self, embeddings, sharpness):
        """Return the Densities of one batch of embeddings (n, embed_dim) on the model's device, not calibrated."""
        raise NotImplementedError

    @torch.no_grad()
    def posterior(self, embeddings):
        """Return the calibrated Densities of embeddings (n, embed_dim), as many as fit into memory at a time."""
        self.config.check(embeddings)
        device = next(self.parameters()).device
        own = self.densities(torch.as_tensor(embeddings).to(device, torch.float32), self.sharpness)
        return WithPrior(own, self.prior, self.share)
