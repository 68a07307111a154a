"""Where were these pictures taken? One line a picture: id, lat, lon, and the radius in km that holds 90 %.

python -m locdiff.predict RUN picture.jpg ...              picture files; a run on Blue Marble takes satellite views
python -m locdiff.predict RUN FOLDER                       an embeddings folder: embeddings.npy and locations.csv
python -m locdiff.predict RUN picture.jpg --map out.png    draws the densities too
"""

import csv
import sys
from pathlib import Path

import torch

from locdiff import cli, datasets, maps
from locdiff.cli import InputError
from locdiff.embed import embed_pictures
from locdiff.model import LocDiffusion
from locdiff.train import pick_device

MAP_LIMIT = 32


def read_source(source, model):
    """Ids and embeddings (n, d) of the given picture files, or of one embeddings folder."""
    if len(source) == 1 and (Path(source[0]) / "embeddings.npy").exists():
        data = datasets.read_embeddings(source[0])
        model.check_encoder(data.encoder)
        return data.ids, data.batch(range(len(data)))[0]
    for path in source:
        if Path(path).is_dir():
            raise InputError(f"{path} is a folder without embeddings.npy; name the picture files in it instead")
    return source, embed_pictures(source, model.config.encoder)


def main(argv=None):
    parser = cli.Parser(prog="python -m locdiff.predict", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a training run")
    parser.add_argument("source", nargs="+", metavar="PICTURE", help="picture files, or one embeddings folder")
    parser.add_argument(
        "--map", type=Path, metavar="FILE.png", help=f"draw the densities (at most {MAP_LIMIT} pictures)"
    )
    parser.add_argument("--samples", type=int, default=16, help="samples drawn on the map (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples (default 0)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    arguments = parser.parse_args(argv)
    model = LocDiffusion.load(arguments.run, pick_device(arguments.device))
    ids, embeddings = read_source(arguments.source, model)
    if arguments.map and len(ids) > MAP_LIMIT:
        raise InputError(f"--map draws at most {MAP_LIMIT} pictures, got {len(ids)}")
    places, radii = model.predict(embeddings)
    if arguments.map:
        samples = model.decode(model.sample(embeddings, arguments.samples, seed=arguments.seed))
        is_thumbnail = model.config.encoder == datasets.THUMBNAIL_ENCODER
        pictures = datasets.thumbnail_pictures(embeddings) if is_thumbnail else None
        density, names = model.density(embeddings), [Path(name).name for name in ids]
        maps.draw_predictions(arguments.map, model.anchors, places, density, samples, pictures=pictures, names=names)
    writer = csv.writer(sys.stdout)
    writer.writerow(["id", "lat", "lon", "radius_90_km"])
    for name, (lat, lon), radius in zip(ids, places.tolist(), radii.tolist(), strict=True):
        writer.writerow([name, f"{lat:.4f}", f"{lon:.4f}", f"{radius:.0f}"])


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    cli.run(main)
