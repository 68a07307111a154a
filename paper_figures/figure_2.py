"""Figure 2: the C-Siren block, the CS-UNet and the workflow, drawn from the modules and from one forward pass."""

import dataclasses
import math

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon
from report import markdown_table, write_csv
from torch import nn

from locdiff import diffusion, shdd
from locdiff.coordinates import geographic_center
from locdiff.model import LocDiffusion
from locdiff.train import resolve

TITLE = "the C-Siren block, the CS-UNet and the workflow"
DATA = (
    "the networks of the presets at L = 23, not trained: their modules, and hooks on one forward pass of random input."
)
PRESETS = ("paper", "quickstart")
PARTS = ("from_x", "from_time.0", "from_time.2", "from_image", "out")  # the linear layers of a C-Siren block
WORKFLOW = ("image embedding", "place", "x_0", "x_t", "output", "SHDD-KL", "samples", "decoded", "prediction")
CHECKS = (
    "C-Siren: output is sin(W_o((1 + alpha) * h_x + epsilon + h_I))",
    "the blocks lead from d to the bottleneck w and back to d",
    "the way up has the widths of the way down",
    "after each block up, the input of its mirror image is added",
    "every block is given t and the picture",
    "latent d = (L + 1)^2 = 576, time embedding 200, image embedding 768",
    "6 blocks, as in Table 9",
    "the blocks and a linear head hold all parameters",
)
LEARNED, FIXED, DATUM = "#F5C88A", "#A9D3F0", "#FFFFFF"  # as in the paper's Figure 1: orange learns, blue does not


def compute(l_max=23, seed=0):
    """Of each preset: blocks (depth, 3), the dimensions in and out and the parameters of every C-Siren block; parts
    (depth, PARTS, 2), its linear layers' dimensions; checks (CHECKS,); and the sizes of what passes in WORKFLOW."""
    result = {}
    for name in PRESETS:
        config = dataclasses.replace(resolve(name, l_max=l_max).model, decoder_nside=8)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = LocDiffusion(config).eval()
            result |= {f"{name}_{key}": np.array(value) for key, value in describe(model, config).items()}
    return result


def describe(model, config):
    """What compute returns of one model."""
    network = model.network
    blocks = [*network.down, *network.up]
    seen, generator = _forward(network, config)
    one, t = torch.randn(1, config.embed_dim, generator=generator), torch.tensor([config.levels])
    place = torch.tensor([[48.86, 2.35]])
    coeffs = shdd.encode(place, config.l_max)
    x_t = diffusion.q_sample(
        coeffs * math.sqrt(4 * math.pi), model.alpha_bar[t - 1, None].float(), torch.randn_like(coeffs)
    )
    with torch.no_grad():
        output = model(x_t, t, one)
    samples = model.sample(one, 16, steps=2)
    decoded = model.decode(samples)
    loss = shdd.kl_divergence(output, coeffs, shdd.encode(model.anchors, config.l_max).float())
    flow = (one, place, coeffs, x_t, output, loss[..., None], samples[0], decoded[0], geographic_center(decoded)[0])
    return {
        "blocks": [[b.from_x.in_features, b.out.out_features, _count(b)] for b in blocks],
        "parts": [[list(b.get_submodule(p).weight.shape[::-1]) for p in PARTS] for b in blocks],
        "checks": checks(network, config, seen),
        "parameters": [_count(network), _count(network.head)],
        "workflow": [list(part.shape[-2:]) if part.ndim > 1 else [1, *part.shape] for part in flow],
    }


def _count(module):
    return sum(p.numel() for p in module.parameters())


def _forward(network, config):
    """What goes into and comes out of each module in one forward pass, {module: (inputs, output)}; the generator."""
    generator, seen, handles = torch.Generator().manual_seed(0), {}, []
    for module in network.modules():
        hook = module.register_forward_hook(lambda m, inputs, output: seen.__setitem__(m, (inputs, output)))
        handles.append(hook)
    x, image = (torch.randn(3, n, generator=generator) for n in (config.dimensions, config.embed_dim))
    with torch.no_grad():
        network.eval()(x, torch.tensor([1, config.levels // 2, config.levels]), image)
    for handle in handles:
        handle.remove()
    return seen, generator


def checks(network, config, seen=None):
    """Whether each of CHECKS holds of a network, by what its modules received and returned; a list of bool."""
    seen = seen or _forward(network, config)[0]
    down, up = list(network.down), list(network.up)
    blocks, given = down + up, {module: inputs for module, (inputs, _) in seen.items()}
    gave = {module: output for module, (_, output) in seen.items()}
    widths = [given[blocks[0]][0].shape[-1], *(gave[block].shape[-1] for block in blocks)]
    behind = [given[block][0] for block in [*up[1:], network.head]]  # what follows each block up
    known = {module for block in blocks for module in block.modules()} | {
        network.head,
        network.down,
        network.up,
        network,
    }

    def is_siren(block):
        scale, shift = gave[block.from_time].chunk(2, dim=-1)
        h = (1 + scale) * gave[block.from_x] + shift + gave[block.from_image]
        expected = torch.sin(nn.functional.linear(h, block.out.weight, block.out.bias))
        return torch.allclose(gave[block], expected, atol=1e-5)

    first_time, first_image = given[blocks[0]][1:]
    return [
        all(is_siren(block) for block in blocks),
        widths[0] == widths[-1] == config.dimensions and min(widths) == widths[len(down)] == config.width,
        widths == widths[::-1],
        all(
            torch.allclose(b, gave[u] + given[d][0], atol=1e-6) for b, u, d in zip(behind, up, down[::-1], strict=True)
        ),
        all(torch.equal(given[b][1], first_time) and torch.equal(given[b][2], first_image) for b in blocks),
        (widths[0], first_time.shape[-1], first_image.shape[-1]) == (576, 200, 768),
        len(blocks) == 6,
        known == set(network.modules()) and sum(map(_count, [*blocks, network.head])) == _count(network),
    ]


def key_numbers(result):
    """The parameters of the networks, and how many checks hold."""
    numbers = {f"{name}, parameters": (result[f"{name}_parameters"][0], 0) for name in PRESETS}
    return numbers | {f"{name}, checks": (result[f"{name}_checks"].sum(), 0) for name in PRESETS}


def draw(result, folder):
    """Write figure_2.png and figure_2.csv; Markdown and verdict."""
    figure = Figure(figsize=(14, 7), dpi=110)
    draw_block(figure.add_axes((0.005, 0.02, 0.34, 0.92)), result["paper_parts"][0])
    draw_workflow(figure.add_axes((0.355, 0.02, 0.64, 0.92)), result)
    figure.savefig(folder / "figure_2.png")
    rows, lines = [], []
    for name in PRESETS:
        for i, (d_in, d_out, count) in enumerate(result[f"{name}_blocks"]):
            rows.append([name, f"C-Siren {i + 1}", f"{d_in} to {d_out}", f"{count:,}"])
            lines.append([name, i + 1, d_in, d_out, count])
        total, head = result[f"{name}_parameters"]
        d = result[f"{name}_blocks"][0, 0]
        rows += [[name, "head", f"{d} to {d}", f"{head:,}"], [name, "together", "", f"{total:,}"]]
    write_csv(folder / "figure_2.csv", ["preset", "block", "d in", "d out", "parameters"], lines)
    agree = [
        [check, *("yes" if result[f"{name}_checks"][i] else "no" for name in PRESETS)] for i, check in enumerate(CHECKS)
    ]
    text = (
        "Drawn: the preset `paper` at L = 23; the quickstart's network is wired alike with w = 256. Orange learns, "
        "blue does not. The paper gives no parameter counts. Its Table 9 calls w the narrowest part of each C-Siren "
        "module; here it is that of the whole U."
    )
    parts = ["![figure 2](figure_2.png)", text, markdown_table(["the paper's wiring", *PRESETS], agree)]
    return "\n\n".join([*parts, markdown_table(["preset", "module", "dimensions", "parameters"], rows)]), verdict(
        result
    )


def verdict(result):
    """Do the checks hold of both presets?"""
    failed = [
        f"{c} ({name})" for name in PRESETS for c, ok in zip(CHECKS, result[f"{name}_checks"], strict=True) if not ok
    ]
    counts = " and ".join(f"{result[f'{name}_parameters'][0]:,} ({name})" for name in PRESETS)
    if failed:
        return f"differs: not so: {'; '.join(failed)}. Parameters: {counts}."
    head = result["paper_parameters"][1]
    return (
        f"reproduced: all {len(CHECKS)} checks of shapes and wiring hold. Parameters: {counts}. Ours is the linear "
        f"head behind the last block ({head:,} parameters), because a sine cannot exceed one and coefficients do."
    )


def box(ax, x, y, text, colour=LEARNED, width=2.2, height=0.8, size=9.5):
    """A box with text around (x, y)."""
    shape = FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0.03", fc=colour, ec="black"
    )
    ax.add_patch(shape)
    ax.text(x, y, text, ha="center", va="center", fontsize=size)


def arrow(ax, start, end, bend=0.0, colour="black"):
    """An arrow between two points."""
    style = {"arrowstyle": "-|>", "color": colour, "connectionstyle": f"arc3,rad={bend}", "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=style)


def draw_block(ax, parts):
    """(a): a C-Siren block by the dimensions of its linear layers."""
    (x_in, width), (t_in, t_hidden), (_, t_out), (image_in, image_out), (out_in, out) = parts.tolist()
    ax.set(xlim=(-3.9, 3.9), ylim=(-0.6, 9.2))
    ax.axis("off")
    ax.set_title("(a) C-Siren, here the first of 6", fontsize=12)
    columns = (-2.6, 0, 2.6)
    for column, label in zip(
        columns, (f"x\n({x_in})", f"t\nembedded ({t_in})", f"image $e_I$\n({image_in})"), strict=True
    ):
        box(ax, column, 0, label, DATUM)
    box(ax, columns[0], 2, f"$W_x$\n{x_in} to {width}")
    box(ax, columns[1], 2, f"feed-forward\n{t_in} to {t_hidden} to {t_out}")
    box(ax, columns[2], 2, f"$W_I$\n{image_in} to {image_out}")
    box(ax, 0, 4.2, "$(1 + \\alpha) \\odot h_x + \\epsilon + h_I$\n" + f"({width})", FIXED, 4.2, 0.9, 11)
    box(ax, 0, 5.9, f"$W_o$\n{out_in} to {out}")
    box(ax, 0, 7.3, "sine", FIXED, height=0.6)
    box(ax, 0, 8.6, f"output z ({out})", DATUM, height=0.6)
    for column, label in zip(columns, ("$h_x$", "$\\alpha, \\epsilon$", "$h_I$"), strict=True):
        arrow(ax, (column, 0.43), (column, 1.57))
        arrow(ax, (column, 2.43), (0.55 * column, 3.72))
        ax.text(0.78 * column + 0.12, 3.1, label, fontsize=11)
    for low, high in ((4.68, 5.47), (6.33, 6.97), (7.63, 8.27)):
        arrow(ax, (0, low), (0, high))


def draw_workflow(ax, result):
    """(b): the CS-UNet by the widths of its blocks, and what passes around it."""
    blocks = result["paper_blocks"]
    size = dict(zip(WORKFLOW, result["paper_workflow"].tolist(), strict=True))
    d = size["x_0"][1]
    ax.set(xlim=(-0.4, 14.4), ylim=(-0.6, 9.2))
    ax.axis("off")
    ax.set_title(f"(b) CS-UNet and workflow, L = {math.isqrt(d) - 1}", fontsize=12)
    left, step, middle = 3.1, 1.15, 4.6
    for i, (d_in, d_out, count) in enumerate(blocks.tolist()):
        x = [left + i * step, left + (i + 0.86) * step]
        half = [0.35 + 0.95 * math.sqrt(n / d) for n in (d_in, d_out)]
        corners = [
            (x[0], middle - half[0]),
            (x[1], middle - half[1]),
            (x[1], middle + half[1]),
            (x[0], middle + half[0]),
        ]
        ax.add_patch(Polygon(corners, fc=LEARNED, ec="black"))
        ax.text(
            sum(x) / 2, middle, f"C-Siren\n{d_in} to {d_out}\n{count / 1e6:.2f} M", ha="center", va="center", fontsize=8
        )
        if i:
            arrow(ax, (x[0] - 0.14 * step, middle), (x[0], middle))
    for i in range(len(blocks) // 2):
        start, end, top = left + (i - 0.07) * step, left + (len(blocks) - i - 0.07) * step, 7.6 - 0.5 * i
        ax.plot([start, start, end], [middle, top, top], color="#0072B2", linewidth=1.2)
        arrow(ax, (end, top), (end, middle + 0.1), colour="#0072B2")
        ax.text(end, middle, "+", ha="center", va="center", fontsize=10, color="#0072B2", weight="bold")
    ax.text(left + 3 * step, 7.75, "skip connections", ha="center", fontsize=10, color="#0072B2")
    right = left + len(blocks) * step
    box(
        ax,
        right + 0.75,
        middle,
        f"head\n{d} to {d}\n{result['paper_parameters'][1] / 1e6:.2f} M",
        width=1.0,
        height=1.2,
        size=8,
    )
    box(ax, 1.0, 8.4, f"1  place ({size['place'][1]})", DATUM, 2.2, 0.6)
    box(ax, 1.0, 7.2, "2  SHDD encoder", FIXED, 2.2, 0.6)
    box(ax, 1.0, 6.0, f"3  add noise of level t\n$x_0$ ({size['x_0'][1]}) to $x_t$ ({size['x_t'][1]})", FIXED, 2.4, 0.8)
    box(ax, 1.0, 1.8, "image", DATUM, 1.6, 0.6)
    box(ax, 3.9, 1.8, "CLIP, frozen", FIXED, 2.0, 0.6)
    box(
        ax,
        7.6,
        1.8,
        f"$e_I$ ({size['image embedding'][1]}) and t ({result['paper_parts'][0, 1, 0]}): to every block",
        DATUM,
        4.2,
        0.6,
    )
    box(ax, right + 2.7, middle, f"4  output e\n({size['output'][1]})", DATUM, 1.6, 0.8)
    box(ax, right + 2.7, 7.2, "5  SHDD-KL\nto $x_0$", FIXED, 1.8, 0.8)
    samples = size["samples"][0]
    box(
        ax,
        right + 2.7,
        2.6,
        f"mode seeking\n{samples} times ({size['samples'][1]})\nto ({size['decoded'][1]})",
        FIXED,
        2.0,
        1.1,
        9,
    )
    box(ax, right + 2.7, 0.6, f"centre: ({size['prediction'][1]})", DATUM, 2.0, 0.6)
    arrow(ax, (1.0, 8.07), (1.0, 7.53))
    arrow(ax, (1.0, 6.87), (1.0, 6.43))
    ax.plot([1.0, 1.0], [5.57, middle], color="black", linewidth=1.2)
    arrow(ax, (1.0, middle), (left, middle))
    arrow(ax, (1.83, 1.8), (2.87, 1.8))
    arrow(ax, (4.93, 1.8), (5.47, 1.8))
    for i in range(len(blocks)):
        arrow(ax, (left + (i + 0.43) * step, 2.13), (left + (i + 0.43) * step, middle - 1.0))
    arrow(ax, (right - 0.14 * step, middle), (right + 0.22, middle))
    arrow(ax, (right + 1.28, middle), (right + 1.87, middle))
    arrow(ax, (right + 2.7, middle + 0.43), (right + 2.7, 6.77))
    arrow(ax, (right + 2.7, middle - 0.43), (right + 2.7, 3.18))
    arrow(ax, (right + 2.7, 2.02), (right + 2.7, 0.93))
    ax.plot([2.13, right + 2.7], [8.4, 8.4], color="black", linewidth=1.2)
    arrow(ax, (right + 2.7, 8.4), (right + 2.7, 7.63))
    ax.text(right + 2.85, 6.0, "training", fontsize=9, style="italic")
    ax.text(right + 2.85, 3.6, "inference", fontsize=9, style="italic")
