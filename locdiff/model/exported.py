"""A model as one file for other programs: from embeddings to natural parameters and the probabilities of pixels.

The module that is exported consists of plain operations of torch. It is the one-pass density of level 0; refinement
levels, samples and modes stay in this program.
"""

import copy
import io
import json
import math
from importlib import metadata

import torch
from torch import Tensor, nn

from locdiff.errors import InputError
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.sphere.healpix import HealpixTransform, rings

INPUT, DENSITY = "embeddings", "pixel_probs"  # names in the file; that of the first output is the model's
ABOUT = "locdiff.json"  # in a .pt2 file
TOLERANCE = 1e-5
INSTALL = "pip install -e '.[export]'"


class PlainSynthesis(nn.Module):
    """F on the HEALPix pixels of a HealpixTransform in RING order, (n, D) -> (n, N): `synthesis` in five products.

    A Legendre sum takes the coefficients to every ring, and a product with a table the rings to their pixels. The rings
    are arranged so that few tables do: those around the north pole, from it, and those around the south pole, each with
    a table for its length, filled up to the longest; then the others, half of them turned by half a pixel. `pixel`
    picks the pixels of what is filled up.
    """

    k: Tensor
    weight: Tensor
    legendre: Tensor
    polar: Tensor
    equator: Tensor
    pixel: Tensor

    def __init__(self, grid: HealpixTransform):
        super().__init__()
        self.orders, nside = grid.l_max + 1, grid.nside
        _, first, length, shift = rings(nside)
        ring = torch.arange(4 * nside - 1)
        belt = ring[nside - 1 : 3 * nside]
        belts = [belt[shift[belt] == half] for half in (0.5, 0)]
        order = torch.cat([ring[: nside - 1], ring[3 * nside :].flip(0), *belts])
        width = torch.cat([torch.full((2 * nside - 2,), 4 * nside - 4), torch.full((2 * nside + 1,), 4 * nside)])
        start = torch.empty_like(ring)
        start[order] = width.cumsum(0) - width
        self.belts = [len(one) for one in belts]
        buffers = {
            "k": grid.k,
            "weight": grid.weight.view(self.orders, 1, 2),
            "legendre": grid.legendre[:, order],  # (m, ring, l)
            "polar": torch.stack([self._table(length[i], 4 * nside - 4, 0.5) for i in order[: nside - 1]])
            if nside > 1 else torch.empty(0, 2 * self.orders, 0),  # (ring, 2 m, pixel)
            "equator": torch.stack([self._table(4 * nside, 4 * nside, half) for half in (0.5, 0)]),
            "pixel": (start - first).repeat_interleave(length) + torch.arange(12 * nside**2),
        }  # fmt: skip
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer.to("cpu").contiguous().clone())

    def _table(self, length, width, shift):
        """The cosines, and minus the sines, of the orders at the pixels of a ring, (2 m, width), zero beyond it."""
        pixel = torch.arange(width, dtype=torch.float64)
        angle = torch.arange(self.orders)[:, None] * (pixel + shift) * (2 * math.pi / length)
        table = torch.stack([angle.cos(), -angle.sin()], dim=1) * (pixel < length)
        return table.flatten(0, 1).float()

    def forward(self, coeffs: Tensor) -> Tensor:
        slots = coeffs.index_select(1, self.k).unflatten(1, (self.orders, self.orders, 2)) * self.weight
        on_rings = (self.legendre @ slots).transpose(1, 2).flatten(2)  # (n, ring, 2 m)
        polar, *belts = on_rings.split([2 * len(self.polar), *self.belts], dim=1)
        polar = polar.unflatten(1, (2, -1)).permute(2, 0, 1, 3).flatten(1, 2) @ self.polar  # (ring, n and pole, pixel)
        polar = polar.unflatten(1, (-1, 2)).permute(1, 2, 0, 3)
        belts = [part @ table for part, table in zip(belts, self.equator, strict=True)]
        return torch.cat([part.flatten(1) for part in (polar, *belts)], dim=1).index_select(1, self.pixel)


class OnePass(nn.Module):
    """Level 0 of a model at pure noise: embeddings (n, embed_dim) -> what `one_pass` returns (n, D), and
    `pixel_probs` (n, N)."""

    noise: Tensor
    excess: Tensor

    def __init__(self, model: LocDiffusion):
        super().__init__()
        self.model = _without(model, "grid", "refinements")
        self.model.objective = _without(model.objective, "quadrature")
        self.synthesis = PlainSynthesis(model.grid)
        self.steps = len(model.alpha_bar)
        noise = torch.randn(model.config.network.dimensions, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise)
        none = torch.zeros(12 * model.grid.nside**2)
        self.register_buffer("excess", model.calibration.excess(model.grid.nside) if model.calibration else none)

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.full((1,), self.steps)
        coeffs = self.model.objective.coeffs(self.model(self.noise, t, embeddings))
        return coeffs, self.model.objective.pixel_probs(self.synthesis(coeffs) + self.excess)


def _without(module, *names):
    """A copy of a module, with the same tensors, that lacks some of its parts: a file would hold them all."""
    found = copy.copy(module)
    found._modules = {name: part for name, part in module._modules.items() if name not in names}
    return found


def check_exportable(model: LocDiffusion, level_0: bool = False) -> None:
    """Raise InputError if the model says more than its level 0, and that is not asked for by `level_0`."""
    if model.refinements and not level_0:
        raise InputError(
            f"this model has {len(model.refinements) + 1} levels, and a file holds level 0 alone, whose densities are "
            "coarser than the model's: add --level-0 if that is meant"
        )


def about(model: LocDiffusion) -> dict[str, str]:
    """Return what a file says of itself, {name: text}."""
    c, (first, second) = model.config, _names(model)
    meaning = "natural parameters e of q_e, the density of exp(sum e_lm Y_lm)" if model.objective.is_natural else (
        "coefficients of the density, cut off at l_max"
    )  # fmt: skip
    said = {
        "program": f"LocDiffusion {metadata.version('locdiffusion')}",
        "encoder": c.encoder, "loss": c.objective.loss,
        "l_max": str(c.density_l_max), "nside": str(c.inference.decoder_nside), "ordering": "RING",
        "level": f"0, of {len(model.refinements) + 1}",
        "input": f"{INPUT} (n, {c.embed_dim}) float32, by the encoder",
        "outputs": f"{first} (n, {(c.density_l_max + 1) ** 2}), {meaning}, at index l*l + l + m; {second} (n, "
        f"{12 * c.inference.decoder_nside**2}), the probabilities of the HEALPix pixels",
    }  # fmt: skip
    if isinstance(broad := getattr(model.objective, "broad", None), Tensor):
        share, factor = broad.tolist()
        said["density"] = f"{1 - share:.6g} q_e + {share:.6g} q_f, where f = {factor:.6g} e"
    if model.refinements:
        said["note"] = "the refinement levels of the model are not in this file: its densities are coarser"
    return said


def _names(model):
    return ["natural_params" if model.objective.is_natural else "coeffs", DENSITY]


def typical_embeddings(model: LocDiffusion, count: int = 4) -> Tensor:
    """Return embeddings (count, embed_dim) such as a model was trained on: random, of the mean and covariance by which
    it whitens, if it does."""
    x = torch.randn(count, model.config.embed_dim, generator=torch.Generator().manual_seed(0))
    whiten = model.network.whiten
    return x if isinstance(whiten, nn.Identity) else whiten.mean + torch.linalg.solve(whiten.matrix, x.T).T


def to_onnx(model: LocDiffusion) -> bytes:
    """Return the bytes of an ONNX file. Raises InputError if a package is missing that torch needs for it."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"an ONNX file needs {error.name}: {INSTALL}") from None
    program = torch.onnx.export(
        OnePass(model).eval(), (typical_embeddings(model),), dynamo=True, verbose=False,
        input_names=[INPUT], output_names=_names(model), dynamic_shapes={INPUT: {0: "n"}},
    )  # fmt: skip
    assert program is not None
    program.model.metadata_props.update(about(model))
    return program.model_proto.SerializeToString()


def run_onnx(data: bytes, embeddings: Tensor) -> list[Tensor]:
    """Return both outputs of an ONNX file, by onnxruntime. Raises InputError if that is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"to check an ONNX file needs {error.name}: {INSTALL}") from None
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(one) for one in session.run(None, {INPUT: embeddings.numpy()})]


def to_pt2(model: LocDiffusion) -> bytes:
    """Return the bytes of a file for `torch.export.load`; nothing in it is pickled."""
    shapes = {INPUT: {0: torch.export.Dim("n")}}
    program = torch.export.export(OnePass(model).eval(), (typical_embeddings(model),), dynamic_shapes=shapes)
    program.example_inputs = None  # which would be pickled
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={ABOUT: json.dumps(about(model), indent=2)})
    return buffer.getvalue()


@torch.no_grad()
def run_pt2(data: bytes, embeddings: Tensor) -> list[Tensor]:
    """Return both outputs of a .pt2 file."""
    return list(torch.export.load(io.BytesIO(data)).module()(embeddings))


FORMATS = {".onnx": (to_onnx, run_onnx), ".pt2": (to_pt2, run_pt2)}


@torch.no_grad()
def deviation(model: LocDiffusion, outputs: list[Tensor], embeddings: Tensor) -> tuple[float, float]:
    """Return how far the outputs of a file are from the model's for embeddings (n, embed_dim): the parameters, as a
    share of the largest, and the probabilities.

    Raises InputError if that is more than rounding: TOLERANCE, and for probabilities also two roundings of F.
    """
    coeffs = model.one_pass(embeddings)
    values = model.objective.on_pixels(coeffs.to(model.device), model.grid)
    probs = model.objective.pixel_probs(values).cpu()
    of_coeffs = ((outputs[0] - coeffs).abs().max() / coeffs.abs().max().clamp(min=1e-30)).item()
    of_probs = (outputs[1] - probs).abs().max().item()
    rounding = 2 * torch.finfo(values.dtype).eps * values.abs().max().item() * probs.max().item()
    if not (of_coeffs <= TOLERANCE and of_probs <= TOLERANCE + rounding):
        raise InputError(
            f"the file would differ from the model, by {of_coeffs:.0e} of the largest parameter and {of_probs:.0e} in "
            "a probability, and is not written: try other versions of torch and onnxruntime"
        )
    return of_coeffs, of_probs
