"""What the trained baselines share: the trunk of their networks, prediction in batches, training as LocDiffusion's."""

import math
from functools import partial

import torch
from torch import nn
from tqdm import trange

from locdiff.errors import InputError
from locdiff.memory import batch_size
from locdiff.model.cs_unet import CSUNet
from locdiff.model.whitening import Whitening, fit_whitening
from locdiff.training.trainer import Trainer

PICTURE_BYTES = 2**20  # that one picture takes while it is predicted: a few rows as long as there are cells


def trunk(config, out, extra=0):
    """Return an MLP of three hidden layers with GELU: (..., embed_dim + extra) -> (..., out).

    It is so wide that, without its head and the `extra` inputs, it has the parameters of the CS-UNet of `config`: 2.1
    million by default, at a width of 845.
    """
    n = config.network
    with torch.device("meta"):
        network = CSUNet(n.dimensions, config.embed_dim, n.width, n.depth, n.time_dim, n.dropout)
    linear = config.embed_dim + 3  # parameters = 2 w^2 + linear w
    w = round((math.sqrt(linear**2 + 8 * sum(p.numel() for p in network.parameters())) - linear) / 4)
    layers = [Whitening(config.embed_dim)] if n.whiten else []
    for inputs in (config.embed_dim + extra, w, w):
        layers += [nn.Linear(inputs, w), nn.GELU(), nn.Dropout(n.dropout)]
    return nn.Sequential(*layers, nn.Linear(w, out))


class Baseline(nn.Module):
    """A model of a configuration that the Trainer trains. A subclass has loss(embeddings, lat_lon) and `place`."""

    def __init__(self, config):
        super().__init__()
        self.config = config

    def prepare(self, data):
        """Fit the whitening of the embeddings to the training data."""
        fit_whitening(self, data, self.config.network.whiten)

    def finalize(self, data, validation=None, progress=True):
        """Add nothing: all of a baseline is trained by its loss."""

    @torch.no_grad()
    def validation_nats(self, embeddings, lat_lon):
        """Return minus the loss of each picture, (n, embed_dim) and (n, 2) -> (n,) on the CPU, with the same random
        numbers every time. Where the loss is a likelihood, these are nats up to a constant."""
        device, parts, start = next(self.parameters()).device, [], 0
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for chunk in self.batches(embeddings):
                parts.append(-self.loss(chunk, lat_lon[start : start + len(chunk)].to(device)).cpu())
                start += len(chunk)
        return torch.cat(parts)

    def place(self, embeddings):
        """Return the predicted locations (n, 2) of one batch of embeddings (n, embed_dim) on the model's device."""
        raise NotImplementedError

    @torch.no_grad()
    def predict(self, embeddings):
        """Return the locations (n, 2) of embeddings (n, embed_dim), float64 on the CPU.

        Raises InputError if the embeddings do not fit or are not finite.
        """
        places = [self.place(chunk).cpu().double() for chunk in self.batches(embeddings)]
        return torch.cat(places) if places else torch.empty(0, 2, dtype=torch.float64)

    def batches(self, embeddings, samples=1):
        """Yield embeddings (n, embed_dim) on the model's device, as many as fit into the memory budget at a time."""
        self.config.check(embeddings)
        device = next(self.parameters()).device
        chunks = torch.as_tensor(embeddings).split(batch_size(PICTURE_BYTES * samples))
        return (chunk.to(device, torch.float32) for chunk in chunks if len(chunk))


def train_baseline(make, train, settings, device, progress=True, validation=None):
    """Return the model make(train, config) trained on the Embeddings `train`, with averaged weights.

    The settings are those of LocDiffusion; their `embed_dim` is that of `train`. With `validation`, other Embeddings,
    it is the model of the step that they find best, calibrated by them. Raises InputError if the training diverges.
    """
    trainer = trained(make, train, settings, device, progress, validation)
    return trainer.finished_model(progress=False)


def trained(make, train, settings, device, progress=True, validation=None):
    """Return the Trainer at the end of what `train_baseline` does, before what is fitted to the trained network."""
    trainer = Trainer(settings, train, device, partial(make, train), validation)
    trainer.validate()
    with trange(trainer.steps, desc="training", unit="step", disable=not progress) as bar:
        while not trainer.has_ended:
            loss, _ = trainer.training_step()
            trainer.validate()
            bar.update()
    if not loss.isfinite():
        raise InputError(f"the loss is {loss.item()} after {trainer.steps} steps: lower lr")
    return trainer
