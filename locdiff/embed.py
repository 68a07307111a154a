"""Turn pictures into embeddings that `train --data` and `predict` read, with a frozen encoder.

python -m locdiff.embed PICTURES OUT                       a folder; places from the one csv, tsv or parquet file in it
python -m locdiff.embed PICTURES OUT --places MP16.csv     ids are matched to paths or names, also in zip and tar files
python -m locdiff.embed SHARDS OUT                         tar files of jpg and json (WebDataset)
python -m locdiff.embed PICTURES OUT --encoder open_clip:ViT-B-32/laion2b_s34b_b79k      another model of open_clip
python -m locdiff.embed PICTURES OUT --weights clip.safetensors          with weights from a file: no network needed
python -m locdiff.embed PHOTOS OUT                         without any table: places from the photographs' EXIF GPS
torchrun --nproc_per_node=4 -m locdiff.embed PICTURES OUT                on several GPUs

OUT receives embeddings.npy (float16), locations.csv (id, lat, lon, author), meta.json and, with the reason for each,
failures.csv if any picture could not be used and without_place.csv if any says not where it was taken. The command ends
with a count of all files, and with exit code 2 if any failed. After a kill the same command goes on where it stopped.
"""

import sys
from pathlib import Path

import torch

from locdiff import options
from locdiff.data.decoding import MAX_PIXELS
from locdiff.data.encoders import DEFAULT, ENCODERS, make_encoder
from locdiff.data.encoding import embed
from locdiff.data.pictures import EXIF
from locdiff.data.tally import Tally
from locdiff.errors import InputError
from locdiff.training.distributed import process_group, rank_and_world_size


def main(argv=None):
    """Run the command line."""
    parser = options.Parser(prog="python -m locdiff.embed", description=__doc__)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of pictures or archives, or one of them")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--places", type=Path, metavar="FILE",
        help=f"csv, tsv or parquet: id, lat, lon and maybe author; '{EXIF}': from the pictures, as without any table",
    )  # fmt: skip
    parser.add_argument("--columns", metavar="NAMES", help="of a table without a header: id,lat,lon in its order")
    parser.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, metavar="N",
        help=f"read larger JPEGs at reduced size and refuse other pictures that are larger (default {MAX_PIXELS})",
    )  # fmt: skip
    parser.add_argument(
        "--encoder", default=DEFAULT, metavar="NAME",
        help=f"one of {', '.join(ENCODERS)}, with details behind a colon (default {DEFAULT}; open_clip's list_models() "
        "names its models)",
    )  # fmt: skip
    parser.add_argument("--weights", metavar="FILE", help="file of the encoder's weights (.safetensors)")
    parser.add_argument("--batch", type=int, default=64, help="pictures at a time (default 64)")
    parser.add_argument("--workers", type=int, help="processes that read pictures (default: the processors, at most 8)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    arguments = parser.parse_args(argv)
    with process_group(arguments.device, "gloo") as device:
        rank, processes = rank_and_world_size()
        encoder = make_encoder(arguments.encoder, arguments.weights, device)
        barrier = torch.distributed.barrier if processes > 1 else lambda: None
        batch, workers, tally = arguments.batch, arguments.workers, Tally()
        meta = embed(
            arguments.source, arguments.out, encoder, arguments.places, batch, workers, rank, processes, barrier,
            arguments.columns and arguments.columns.split(","), arguments.max_pixels, tally,
        )  # fmt: skip
    if meta:
        print(f"{meta['pictures']:,} embeddings of {meta['width']} numbers by {meta['encoder']} in {arguments.out}")
        print(tally, file=sys.stderr)
        if meta["failed"]:
            raise InputError(f"{meta['failed']:,} pictures failed; {arguments.out / 'failures.csv'} says why")


if __name__ == "__main__":
    options.run(main)
