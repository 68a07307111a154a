"""Where were these pictures taken? Prints csv: id, prediction, lat, lon, probability, radius_50_km, radius_90_km.

python -m locdiff.predict RUN picture.jpg ...              picture files; a run on Blue Marble takes satellite views
python -m locdiff.predict RUN FOLDER                       an embeddings folder: embeddings.npy and locations.csv
python -m locdiff.predict RUN picture.jpg --top-k 5        up to five places a picture
python -m locdiff.predict RUN picture.jpg --map out.png    draws the densities too, with their 50 and 90 % regions

The predictions of a picture are

  place 1, 2, ...     the tops of the most probable hills of its density, and the probability of the whole hill;
                      radius_50_km and radius_90_km around the first hold so much of the whole density
  within K km         the place with the most probability within K km of it: the best guess where K km count as right
  centre of 16        the paper's prediction, the geographic centre of 16 samples (--samples)
"""

import csv
import sys
from pathlib import Path

import torch

from locdiff import cli, datasets, maps
from locdiff.cli import InputError
from locdiff.embed import embed_pictures, encoder_of
from locdiff.layouts import PICTURES
from locdiff.model import LocDiffusion
from locdiff.train import pick_device

MAP_LIMIT = 32


def read_source(source, model, weights=None):
    """Ids and embeddings (n, d) of the given picture files and folders of pictures, or of one embeddings folder."""
    if len(source) == 1 and (Path(source[0]) / "embeddings.npy").exists():
        data = datasets.read_embeddings(source[0], with_places=False)
        model.check_encoder(data.encoder)
        return data.ids, data.batch(range(len(data)))[0]
    paths = []
    for path in map(Path, source):
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path} holds neither pictures nor embeddings.npy")
        paths += map(str, inside)
    encoder = encoder_of(model.config.encoder, weights, model.alpha_bar.device)
    return paths, embed_pictures(paths, encoder)


def main(argv=None):
    parser = cli.Parser(prog="python -m locdiff.predict", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a training run")
    parser.add_argument(
        "source", nargs="+", metavar="PICTURE", help="picture files and folders, or an embeddings folder"
    )
    parser.add_argument(
        "--map", type=Path, metavar="FILE.png", help=f"draw the densities (at most {MAP_LIMIT} pictures)"
    )
    parser.add_argument("--samples", type=int, default=16, help="samples a picture (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples (default 0)")
    parser.add_argument(
        "--weights", metavar="FILE", help="the encoder's weights, if the embeddings were made from a file"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--top-k", type=int, default=1, help="places a picture (default 1)")
    arguments = parser.parse_args(argv)
    if arguments.top_k < 1 or arguments.samples < 1:
        parser.error("--top-k and --samples must be at least 1")
    model = LocDiffusion.load(arguments.run, pick_device(arguments.device))
    ids, embeddings = read_source(arguments.source, model, arguments.weights)
    if arguments.map and len(ids) > MAP_LIMIT:
        raise InputError(f"--map draws at most {MAP_LIMIT} pictures, got {len(ids)}")
    if arguments.map and not arguments.map.resolve().parent.is_dir():
        raise InputError(f"cannot write {arguments.map}: {arguments.map.parent} is no folder")
    predictions = model.predict(embeddings, arguments.samples, arguments.top_k, arguments.seed)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["id", "prediction", "lat", "lon", "probability", "radius_50_km", "radius_90_km"])
    for name, prediction in zip(ids, predictions, strict=True):
        radii = [f"{prediction.radius_50_km:.0f}", f"{prediction.radius_90_km:.0f}"]
        for i, (place, probability) in enumerate(zip(prediction.places, prediction.probabilities, strict=True), 1):
            writer.writerow(
                [name, f"place {i}", *degrees(place), f"{probability:.3g}", *(radii if i == 1 else ["", ""])]
            )
        for k, (*place, probability) in prediction.within.items():
            writer.writerow([name, f"within {k} km", *degrees(place), f"{probability:.3g}", "", ""])
        writer.writerow([name, f"centre of {arguments.samples}", *degrees(prediction.center), "", "", ""])
    if arguments.map and ids:
        is_thumbnail = model.config.encoder == datasets.THUMBNAIL_ENCODER
        pictures = datasets.thumbnail_pictures(embeddings) if is_thumbnail else None
        density, names = model.density(embeddings), [Path(name).name for name in ids]
        places = torch.tensor([prediction.places[0] for prediction in predictions], dtype=torch.float64)
        samples = torch.tensor([prediction.samples for prediction in predictions], dtype=torch.float64)
        maps.draw_predictions(arguments.map, model.anchors, places, density, samples, pictures=pictures, names=names)


def degrees(place):
    return [f"{angle:.4f}" for angle in place]


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    cli.run(main)
