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

    def is_sum(total, a, b):
        return a.shape == b.shape and torch.allclose(total, a + b, atol=1e-6)

    first_time, first_image = given[blocks[0]][1:]
    return [
        all(is_siren(block) for block in blocks),
        widths[0] == widths[-1] == config.dimensions and min(widths) == widths[len(down)] == config.width,
        widths == widths[::-1],
        all(is_sum(b, gave[u], given[d][0]) for b, u, d in zip(behind, up, down[::-1], strict=True)),
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


def box(ax, x, y, text, colour=LEARNED, width=2.4, height=0.8):
    """A box with text around (x, y)."""
    style = {"boxstyle": "round,pad=0.03", "facecolor": colour, "edgecolor": "black"}
    ax.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, **style))
    ax.text(x, y, text, ha="center", va="center", fontsize=9.5)


def arrow(ax, *points, colour="black"):
    """An arrow along points."""
    ax.plot(*zip(*points[:-1], strict=True), color=colour, linewidth=1)
    style = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", points[-1], points[-2], arrowprops=style)


def draw_block(ax, parts):
    """(a): a C-Siren block by the dimensions (PARTS, 2) of its linear layers."""
    (d, width), (d_t, hidden), (_, both), (d_image, _), (_, out) = parts.tolist()
    ax.set(xlim=(-4, 4), ylim=(-0.6, 9.2))
    ax.axis("off")
    ax.set_title("(a) C-Siren, here the first of 6", fontsize=12)
    columns = {  # input, layers and what they make
        -2.7: (f"x\n({d})", f"$W_x$\n{d}→{width}", "$h_x$"),
        0: (f"t, embedded\n({d_t})", f"feed-forward\n{d_t}→{hidden}→{both}", "$\\alpha, \\epsilon$"),
        2.7: (f"image, $e_I$\n({d_image})", f"$W_I$\n{d_image}→{width}", "$h_I$"),
    }
    for x, (inputs, layers, made) in columns.items():
        box(ax, x, 0, inputs, DATUM)
        box(ax, x, 2, layers)
        arrow(ax, (x, 0.43), (x, 1.57))
        arrow(ax, (x, 2.43), (0.6 * x, 3.75))
        ax.text(0.82 * x + 0.25, 3.1, made, fontsize=12)
    box(ax, 0, 4.2, f"$(1 + \\alpha) \\odot h_x + \\epsilon + h_I$\n({width})", FIXED, 4.4)
    box(ax, 0, 5.8, f"$W_o$\n{width}→{out}")
    box(ax, 0, 7.2, "sine", FIXED, height=0.6)
    box(ax, 0, 8.6, f"output z ({out})", DATUM, height=0.6)
    for low, high in ((4.63, 5.37), (6.23, 6.87), (7.53, 8.27)):
        arrow(ax, (0, low), (0, high))


def draw_workflow(ax, result):
    """(b): the CS-UNet by the widths of its blocks, and what passes around it."""
    blocks, y, step = result["paper_blocks"].tolist(), 4.6, 1.35
    sizes = dict(zip(WORKFLOW, result["paper_workflow"].tolist(), strict=True))
    d, last = blocks[0][0], 3.2 + step * len(blocks) - 0.2
    ax.set(xlim=(-0.4, 15.6), ylim=(-0.6, 9.2))
    ax.axis("off")
    ax.set_title(f"(b) CS-UNet and workflow, L = {math.isqrt(d) - 1}", fontsize=12)
    for i, (d_in, d_out, count) in enumerate(blocks):
        start, end = 3.2 + i * step, 3.2 + i * step + 1.05
        low, high = (0.4 + 1.1 * math.sqrt(n / d) for n in (d_in, d_out))  # half heights
        outline = [(start, y - low), (end, y - high), (end, y + high), (start, y + low)]
        ax.add_patch(Polygon(outline, facecolor=LEARNED, edgecolor="black"))
        label = f"C-Siren\n{d_in}→{d_out}\n{count / 1e6:.2f} M"
        ax.text(start + 0.52, y, label, ha="center", va="center", fontsize=8)
        arrow(ax, (start + 0.52, 2.23), (start + 0.52, y - (low + high) / 2))
        if 2 * i < len(blocks):  # from before this block to behind its mirror image
            behind, top = last - i * step + 0.05, 7.5 - 0.5 * i
            arrow(ax, (start - 0.15, y), (start - 0.15, top), (behind, top), (behind, y + 0.15), colour="#0072B2")
            ax.text(behind, y, "⊕", ha="center", va="center", fontsize=13, color="#0072B2")
        if i:
            arrow(ax, (start - 0.15, y), (start, y))
    ax.text((3.2 + last) / 2, 7.6, "skip connections", ha="center", fontsize=10, color="#0072B2")
    n, (total, head) = sizes["samples"][0], result["paper_parameters"]
    for part in (
        (1, 8.4, f"1  place ({sizes['place'][1]})", DATUM),
        (1, 7.1, "2  SHDD encoder", FIXED),
        (1, 5.8, f"3  noise of level t\n$x_0$ ({sizes['x_0'][1]}) → $x_t$ ({sizes['x_t'][1]})", FIXED, 2.7),
        (1, 0.4, "image", DATUM),
        (4.4, 0.4, "CLIP, frozen", FIXED),
        ((3 + last) / 2, 1.8, f"$e_I$ ({sizes['image embedding'][1]}) and t, to every block", DATUM, last - 3),
        (last + 1.05, y, f"head\n{d}→{d}\n{head / 1e6:.2f} M", LEARNED, 1.25, 1.2),
        (last + 3.0, y, f"4  output e\n({sizes['output'][1]})", DATUM, 1.7),
        (last + 3.0, 7.1, "5  SHDD-KL", FIXED, 1.9),
        (last + 3.0, 2.4, f"mode seeking, {n}\nsamples ({sizes['samples'][1]})→({sizes['decoded'][1]})", FIXED),
        (last + 3.0, 0.4, f"centre ({sizes['prediction'][1]})", DATUM),
    ):
        box(ax, *part)
    for points in (
        ((1, 7.97), (1, 7.53)), ((1, 6.67), (1, 6.23)), ((1, 5.37), (1, y), (3.2, y)), ((2.23, 0.4), (3.17, 0.4)),
        ((4.4, 0.83), (4.4, 1.37)), ((last + 0.2, y), (last + 0.42, y)), ((last + 1.68, y), (last + 2.12, y)),
        ((last + 3, 5.03), (last + 3, 6.67)), ((last + 3, 4.17), (last + 3, 2.83)),
        ((last + 3, 1.97), (last + 3, 0.83)), ((2.23, 8.4), (last + 3, 8.4), (last + 3, 7.53)),
    ):  # fmt: skip
        arrow(ax, *points)
    ax.text(last + 2.85, 5.8, "training", fontsize=9.5, style="italic", ha="right")
    ax.text(last + 2.85, 3.5, "inference", fontsize=9.5, style="italic", ha="right")
    ax.text((3.2 + last) / 2, -0.4, f"{total / 1e6:.2f} M parameters in all", ha="center", fontsize=10)
