"""Figure 2: the C-Siren block, the CS-UNet and the workflow, drawn from the modules and from one forward pass."""

import math

import numpy as np
import torch
from artefact import Claim
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from report import BLUE, markdown_table, save, write_csv
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from locdiff.model import diffusion
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.model.reverse_process import ReverseProcess
from locdiff.sphere import shdd
from locdiff.sphere.coordinates import geographic_center
from locdiff.training.settings import resolve

TITLE = "the C-Siren block, the CS-UNet and the workflow"
DATA = "the networks of the presets at L = 23, not trained: their modules, and a forward pass of random input."
PRESETS = ("paper", "quickstart")
PARTS = ("from_x", "from_time.0", "from_time.2", "from_image", "out")  # the linear layers of a C-Siren block
WORKFLOW = ("image embedding", "place", "x_0", "x_t", "output", "SHDD-KL", "samples", "decoded", "prediction")
CHECKS = {  # what holds of the wiring: where the paper says so
    "C-Siren: output is sin(W_o((1 + alpha) * h_x + epsilon + h_I))": "Figure 2(a)",
    "the blocks lead from d to the bottleneck w and back to d": "Figure 2(b)",
    "the way up has the widths of the way down": "Figure 2(b)",
    "after each block up, the input of its mirror image is added": "Figure 2(b)",
    "every block is given t and the picture": "Figure 2(b)",
    "latent d = (L + 1)^2 = 576, time embedding 200, image embedding 768": "Table 3",
    "as many blocks as the preset says": "6 in Table 9",
    "the blocks and a linear head hold all parameters": "no head is drawn",
}
LEARNED, FIXED, DATUM = "#F5C88A", "#A9D3F0", "#FFFFFF"  # as in the paper's Figure 1: orange learns, blue does not


def compute(l_max=23, seed=0):
    """Return of each preset: blocks (depth, 3), the dimensions in and out and the parameters of every C-Siren block;
    parts (depth, PARTS, 2), its linear layers' dimensions; checks (CHECKS,); and the sizes of what passes in
    WORKFLOW."""
    result = {}
    for name in PRESETS:
        floor = resolve(name).model.network.whiten  # below zero it is chosen from the data, and changes no size
        config = resolve(name, l_max=l_max, decoder_nside=8, whiten=0.3 if floor < 0 else floor).model
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            found = describe(LocDiffusion(config).eval(), config)
        result |= {f"{name}_{key}": np.array(value) for key, value in found.items()}
    return result


def describe(model, config):
    """Return what compute does of one model."""
    l_max, times = config.network.l_max, config.diffusion.noise_levels
    network, place, t = model.network, torch.tensor([[48.86, 2.35]]), torch.tensor([times])
    blocks, image = [*network.down, *network.up], torch.randn(1, config.embed_dim)
    coeffs = shdd.encode(place, l_max)
    x_0, alpha_bar = coeffs * math.sqrt(4 * math.pi), model.alpha_bar[t - 1, None].float()
    x_t = diffusion.q_sample(x_0, alpha_bar, torch.randn_like(coeffs))
    output, (decoded, samples) = model(x_t, t, image), ReverseProcess(model, image, steps=2)(16)
    loss = shdd.kl_divergence(output, coeffs, shdd.encode(model.grid.anchors, l_max).float())
    flow = (image, place, coeffs, x_t, output, loss[..., None], samples[0], decoded[0], geographic_center(decoded)[0])
    return {
        "blocks": [[b.from_x.in_features, b.out.out_features, _count(b)] for b in blocks],
        "parts": [[list(b.get_submodule(p).weight.shape[::-1]) for p in PARTS] for b in blocks],
        "checks": checks(network, config),
        "parameters": [_count(network), _count(network.head)],
        "workflow": [list(part.shape[-2:]) if part.ndim > 1 else [1, *part.shape] for part in flow],
    }


def _count(module):
    return sum(p.numel() for p in module.parameters())


def checks(network, config):
    """Return whether each of CHECKS holds of a network, by what its modules received and returned; a list of bool."""
    given, gave = record(network, config)
    down, up = list(network.down), list(network.up)
    blocks, c = down + up, config.network
    widths = [given[blocks[0]][0].shape[-1], *(gave[block].shape[-1] for block in blocks)]
    behind = [given[block][0] for block in [*up[1:], network.head]]  # what follows each block up
    known = {network, network.whiten, network.down, network.up, network.head}
    known |= {module for block in blocks for module in block.modules()}
    first_time, first_image = given[blocks[0]][1:]
    return [
        all(_is_siren(block, gave) for block in blocks),
        widths[0] == widths[-1] == c.dimensions and min(widths) == widths[len(down)] == c.width,
        widths == widths[::-1],
        all(_is_sum(b, gave[u], given[d][0]) for b, u, d in zip(behind, up, down[::-1], strict=True)),
        all(torch.equal(given[b][1], first_time) and torch.equal(given[b][2], first_image) for b in blocks),
        (widths[0], first_time.shape[-1], first_image.shape[-1]) == (576, 200, 768),
        len(blocks) == c.depth,
        known == set(network.modules()) and sum(map(_count, [*blocks, network.head])) == _count(network),
    ]


def record(network, config):
    """Return what each module of a network is given and what it gives in a forward pass: {module: inputs}, {module:
    output}."""
    generator, given, gave = torch.Generator().manual_seed(0), {}, {}

    def note(module, inputs, output):
        given[module], gave[module] = inputs, output

    x, image = (torch.randn(3, n, generator=generator) for n in (config.network.dimensions, config.embed_dim))
    times = config.diffusion.noise_levels
    with register_module_forward_hook(note), torch.no_grad():
        network.eval()(x, torch.tensor([1, times // 2, times]), image)
    return given, gave


def _is_siren(block, gave):
    scale, shift = gave[block.from_time].chunk(2, dim=-1)
    h = (1 + scale) * gave[block.from_x] + shift + gave[block.from_image]
    expected = torch.sin(nn.functional.linear(h, block.out.weight, block.out.bias))
    return torch.allclose(gave[block], expected, atol=1e-5)


def _is_sum(total, a, b):
    return a.shape == b.shape and torch.allclose(total, a + b, atol=1e-6)


def key_numbers(result):
    """Return the parameters of the networks, and how many checks hold."""
    numbers = {f"{name}, parameters": (result[f"{name}_parameters"][0], 0) for name in PRESETS}
    return numbers | {f"{name}, checks": (result[f"{name}_checks"].sum(), 0) for name in PRESETS}


def draw(result, folder):
    """Write figure_2.png and figure_2.csv; return Markdown and claims."""
    figure = Figure(figsize=(15.5, 7), dpi=110)
    draw_block(figure.add_axes((0.005, 0.02, 0.32, 0.92)), result["paper_parts"][0].tolist())
    draw_workflow(figure.add_axes((0.335, 0.02, 0.66, 0.92)), result)
    rows, lines = [], []
    for name in PRESETS:
        blocks, (total, head) = result[f"{name}_blocks"].tolist(), result[f"{name}_parameters"]
        lines += [[name, i, *block] for i, block in enumerate(blocks, 1)]
        rows += [[name, f"C-Siren {i}", f"{a} to {b}", f"{count:,}"] for i, (a, b, count) in enumerate(blocks, 1)]
        rows += [[name, "head", f"{blocks[0][0]} to {blocks[0][0]}", f"{head:,}"], [name, "together", "", f"{total:,}"]]
    write_csv(folder / "figure_2.csv", ["preset", "block", "d in", "d out", "parameters"], lines)
    parts = [
        save(figure, folder / "figure_2.png"),
        "Drawn: the preset `paper` at L = 23; the quickstart's network is wired alike, with two blocks and w = 256, "
        "and whitens the embeddings. Orange learns, blue does not. The paper gives no parameter counts. Its Table 9 "
        "calls w the narrowest part of each C-Siren module; here it is that of the whole U. The linear head behind "
        "the last block is ours: a sine cannot exceed one, coefficients do.",
        markdown_table(["preset", "module", "dimensions", "parameters"], rows),
    ]
    return "\n\n".join(parts), claims(result)


def claims(result):
    """Return the paper's wiring as claims, each about the networks of both presets."""
    both = zip(CHECKS.items(), *(result[f"{name}_checks"].tolist() for name in PRESETS), strict=True)
    words = {True: "yes", False: "no"}
    return [
        Claim(check, where, f"paper: {words[paper]}, quickstart: {words[quickstart]}", paper and quickstart)
        for (check, where), paper, quickstart in both
    ]


def box(ax, x, y, text, color=LEARNED, pad=0.6):
    """Write text in a box around (x, y); return the place and the box."""
    style = {"boxstyle": f"round,pad={pad},rounding_size=0.1", "facecolor": color}
    text = ax.text(x, y, text, ha="center", va="center", fontsize=9.5, bbox=style)
    return (x, y), text.get_bbox_patch()


def arrow(ax, start, end, path="arc3", color="black"):
    """Draw an arrow from edge to edge of two boxes, or between two places with None for the box."""
    (xy_a, patch_a), (xy_b, patch_b) = start, end
    style = {"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 0, "connectionstyle": path}
    ax.annotate("", xy_b, xy_a, arrowprops=style | {"patchA": patch_a, "patchB": patch_b})


def draw_block(ax, parts):
    """Draw (a), a C-Siren block, by the dimensions (PARTS, 2) of its linear layers."""
    (d, width), (d_t, hidden), (_, both), (d_image, _), (_, out) = parts
    ax.set(xlim=(-4, 4), ylim=(-0.6, 9.2))
    ax.axis("off")
    ax.set_title("(a) C-Siren, here the first of 6", fontsize=12)
    total = box(ax, 0, 4.2, f"$(1 + \\alpha) \\odot h_x + \\epsilon + h_I$\n({width})", FIXED)
    for x, inputs, layers, made in (
        (-2.7, f"x\n({d})", f"$W_x$\n{d}→{width}", "$h_x$"),
        (0, f"t, embedded\n({d_t})", f"feed-forward\n{d_t}→{hidden}→{both}", "$\\alpha, \\epsilon$"),
        (2.7, f"image, $e_I$\n({d_image})", f"$W_I$\n{d_image}→{width}", "$h_I$"),
    ):
        layer = box(ax, x, 2, layers)
        arrow(ax, box(ax, x, 0, inputs, DATUM), layer)
        arrow(ax, layer, total)
        ax.text(0.7 * x + 0.15, 3.1, made, fontsize=12)
    for part in ((5.9, f"$W_o$\n{width}→{out}", LEARNED), (7.3, "sine", FIXED), (8.6, f"output z ({out})", DATUM)):
        below, total = total, box(ax, 0, *part)
        arrow(ax, below, total)


def draw_workflow(ax, result):
    """Draw (b), the CS-UNet, by the widths of its blocks, and what passes around it."""
    blocks, y = result["paper_blocks"].tolist(), 4.4
    (total, head), d, last = result["paper_parameters"] / 1e6, blocks[0][0], 3.6 + 1.7 * len(blocks)
    sizes = {name: n for name, (_, n) in zip(WORKFLOW, result["paper_workflow"].tolist(), strict=True)}
    ax.set(xlim=(-0.5, 18.6), ylim=(-0.6, 9.2))
    ax.axis("off")
    ax.set_title(f"(b) CS-UNet and workflow, L = {math.isqrt(d) - 1}: {total:.2f} M parameters in all", fontsize=12)
    nodes = {
        "place": (1, 8.6, f"1  place ({sizes['place']})", DATUM),
        "encoder": (1, 7, "2  SHDD encoder", FIXED),
        "noise": (1, y, f"3  noise of level t\n$x_0$ ({sizes['x_0']}) → $x_t$ ({sizes['x_t']})", FIXED),
        "image": (1, 0.2, "image", DATUM),
        "CLIP": (5, 0.2, "CLIP, frozen", FIXED),
        "given": (8.55, 1.5, f"$e_I$ ({sizes['image embedding']}) and t, to every block".center(112), DATUM),
        "head": (last + 0.9, y, f"head\n{d}→{d}\n{head:.2f} M", LEARNED),
        "output": (last + 3.2, y, f"4  output e\n({sizes['output']})", DATUM),
        "loss": (last + 3.2, 7, "5  SHDD-KL, training", FIXED),
        "modes": (last + 3.2, 2.3, f"inference: modes of 16\nsamples ({sizes['samples']})→({sizes['decoded']})", FIXED),
        "center": (last + 3.2, 0.2, f"centre ({sizes['prediction']})", DATUM),
    }
    boxes = {name: box(ax, *node) for name, node in nodes.items()}
    arrow(ax, draw_blocks(ax, blocks, y, boxes), boxes["head"])
    ax.text(last / 2 + 1.7, 6.5, "skip connections", ha="center", fontsize=10, color=BLUE)
    for start, end, *path in (
        ("place", "encoder"), ("encoder", "noise"), ("image", "CLIP"), ("head", "output"), ("output", "loss"),
        ("output", "modes"), ("modes", "center"), ("place", "loss", "angle,angleA=0,angleB=90"),
    ):  # fmt: skip
        arrow(ax, boxes[start], boxes[end], *path)
    arrow(ax, boxes["CLIP"], ((5, 1.5), boxes["given"][1]))


def draw_blocks(ax, blocks, y, boxes):
    """Draw the blocks (d_in, d_out, parameters) of the U at the height y, with their skips; return the last part."""
    d, before, skips = blocks[0][0], boxes["noise"], []
    for i, (d_in, d_out, count) in enumerate(blocks):
        x, low, high = 4.3 + 1.7 * i, *(0.5 + 1.2 * math.sqrt(n / d) for n in (d_in, d_out))  # half heights
        outline = [(x - 0.57, y - low), (x + 0.57, y - high), (x + 0.57, y + high), (x - 0.57, y + low)]
        block = (x, y), ax.add_patch(Polygon(outline, facecolor=LEARNED, edgecolor="black"))
        ax.text(x, y, f"C-Siren\n{d_in}→{d_out}\n{count / 1e6:.2f} M", ha="center", va="center", fontsize=8)
        arrow(ax, before, block)
        arrow(ax, ((x, 1.5), boxes["given"][1]), block)
        before = block
        if 2 * i < len(blocks):
            skips.append(((x - 0.85, y), None))  # what comes into this block
        else:  # is added to what comes out of its mirror image
            height = 85 + 27 * (i - len(blocks) // 2)  # in pixels
            before = box(ax, x + 0.85, y, "+", DATUM, 0.2)
            arrow(ax, block, before)
            arrow(ax, skips.pop(), before, f"arc,angleA=90,angleB=90,armA={height},armB={height}", BLUE)
    return before
