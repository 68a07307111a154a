"""The families of methods that Table 1 compares, each trained on the same frozen embeddings as LocDiffusion.

All stand on the same trunk, about as large as the network of LocDiffusion; what their heads weigh comes on top.
"""

from functools import partial

from methods.cells import classifier
from methods.density_head import DensityHead
from methods.encoding_diffusion import EncodingDiffusion
from methods.flow_matching import FlowMatching
from methods.regression import UnitVectorRegression
from methods.von_mises_fisher import VonMisesFisher

FAMILIES = {  # make(train, config) -> module
    "PlaNet-style classification": partial(classifier, cells=(2000,)),
    "CPlaNet-style combinatorial partitioning": partial(classifier, cells=(400, 500, 600), turned=True),
    "ISN-style hierarchy of cells": partial(classifier, cells=(100, 500, 2000)),
    "PIGEON-style label smoothing": partial(classifier, cells=(2000,), tau_km=65.0),
    "Regression of the unit vector": lambda train, config: UnitVectorRegression(config),
    "Regression of a von Mises-Fisher density": lambda train, config: VonMisesFisher(config),
    "Mixture of 32 von Mises-Fisher densities": lambda train, config: VonMisesFisher(config, 32),
    "Riemannian flow matching": lambda train, config: FlowMatching(config),
    "Diffusion in R^3 with projection": lambda train, config: EncodingDiffusion(config),
    "Density head without diffusion": lambda train, config: DensityHead(config),
}
