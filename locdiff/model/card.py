"""The card of a model on the Hugging Face Hub: what it is and was made of, how good it is, and what it is not for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from locdiff.model.config import ModelConfig

NOT_STATED = "not stated, fill in"
TEMPLATE = Path(__file__).parent / "templates" / "card.md"
TAGS = ["geolocation", "geolocalization", "probabilistic", "spherical-harmonics", "arxiv:2503.18142"]


@dataclass
class Facts:
    """What a card says besides the configuration of a model: tables {name: value}, and Markdown.

    `eval_results` are EvalResults of huggingface_hub. `kind` is what the embeddings are of: "pictures", "texts", or ""
    if it is not known.
    """

    data: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    limits: list[str] = field(default_factory=list)
    results: str = ""
    eval_results: list = field(default_factory=list)
    kind: str = ""


def model_card(repo_id: str, config: ModelConfig, facts: Facts | None = None):
    """Return the huggingface_hub.ModelCard of a model; what is not known of it is "not stated, fill in"."""
    from huggingface_hub import ModelCard, ModelCardData

    facts = facts or Facts()
    name = repo_id.partition("/")[2]
    scores = {"model_name": name, "eval_results": facts.eval_results} if facts.eval_results else {}
    about = ModelCardData(library_name="locdiffusion", tags=TAGS, **scores)
    data = {name: facts.data.get(name, NOT_STATED) for name in ("data", "size", "settings", "licence", "credit")}
    encoder = {name: facts.encoder.get(name, NOT_STATED) for name in ("activation", "preprocessing")}
    return ModelCard.from_template(
        about, template_path=str(TEMPLATE), repo_id=repo_id, name=name, kind=facts.kind,
        data=table(data), encoder=table({"encoder": f"`{config.encoder}`"} | encoder),
        model=table(_of_config(config) | facts.training), results=facts.results, limits=facts.limits,
    )  # fmt: skip


def _of_config(config):
    """What a configuration says of the size of a model, and of its loss."""
    n, r, o = config.network, config.refinement, config.objective
    refined = f"; refinement levels zoom by {r.zoom:g}, to degree {r.zoom_l_max}" if r.levels > 1 else ""
    return {
        "input": f"embeddings of {config.embed_dim:,} numbers",
        "degree of the spherical harmonics (l_max)": n.l_max,
        "levels": f"{r.levels}{refined}",
        "network": f"CS-UNet, bottleneck {n.width}, {n.depth} blocks; whitening {n.whiten:g}; dropout {n.dropout:g}",
        "loss": o.loss + " with the exact skip" * o.exact_skip,
        "pixels of a density": f"{12 * config.inference.decoder_nside**2:,} (HEALPix, nside "
        f"{config.inference.decoder_nside})",
    }


def table(rows: dict[str, Any]) -> str:
    """Return a Markdown table of names and values."""
    cells = ((name, " ".join(str(value).split()).replace("|", r"\|")) for name, value in rows.items())
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)])
