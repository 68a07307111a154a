"""Turn pictures or words into embeddings that `train --data` and `predict` read, with a frozen encoder.

python -m locdiff.embed PICTURES OUT                       a folder; places from the one csv, tsv or parquet file in it
python -m locdiff.embed PICTURES OUT --places MP16.csv     ids are matched to paths or names, also in zip and tar files
python -m locdiff.embed SHARDS OUT                         tar files of jpg and json (WebDataset)
python -m locdiff.embed PICTURES OUT --encoder open_clip:ViT-B-32/laion2b_s34b_b79k      another model of open_clip
python -m locdiff.embed PICTURES OUT --weights clip.safetensors          with weights from a file: no network needed
python -m locdiff.embed PHOTOS OUT                         without any table: places from the photographs' EXIF GPS
python -m locdiff.embed TEXTS.csv OUT --encoder text:all-MiniLM-L6-v2      words: a column text; id, lat, lon if known
torchrun --nproc_per_node=4 -m locdiff.embed PICTURES OUT                on several GPUs

OUT receives embeddings.npy (float16), locations.csv (id, lat, lon, author), meta.json and, with the reason for each,
failures.csv if any picture could not be used and without_place.csv if any says not where it was taken. The command ends
with a count of all files, and with exit code 2 if any failed. After a kill the same command goes on where it stopped.
"""

import sys

import torch

from locdiff import options
from locdiff.data.decoding import add_max_pixels
from locdiff.data.encoders import DEFAULT, ENCODERS, is_text_encoder, make_encoder
from locdiff.data.encoding import embed, embed_texts
from locdiff.data.pictures import EXIF
from locdiff.data.tally import Tally
from locdiff.errors import InputError
from locdiff.training.distributed import process_group, rank_and_world_size


def make_parser():
    """Return the parser of the command line."""
    parser = options.Parser(prog="python -m locdiff.embed", description=__doc__)
    path, text, whole = options.path, options.text, options.whole
    parser.add_argument(
        "source", type=path, metavar="SOURCE", help="folder of pictures or archives, or one; or table of texts"
    )
    parser.add_argument("out", type=path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--places", type=path, metavar="FILE",
        help=f"csv, tsv or parquet: id, lat, lon and maybe author; '{EXIF}': from the pictures, as without any table",
    )  # fmt: skip
    parser.add_argument(
        "--columns", type=text, metavar="NAMES", help="of a table without a header: id,lat,lon in its order"
    )
    add_max_pixels(parser)
    parser.add_argument(
        "--encoder", type=text, default=DEFAULT, metavar="NAME",
        help=f"one of {', '.join(ENCODERS)}, with details behind a colon (default {DEFAULT}; open_clip's list_models() "
        "names its models)",
    )  # fmt: skip
    parser.add_argument("--weights", type=text, metavar="FILE", help="file of the encoder's weights (.safetensors)")
    parser.add_argument("--batch", type=whole(1), default=64, help="pictures at a time (default 64)")
    parser.add_argument(
        "--workers", type=whole(0, 1024), help="processes that read pictures (default: the processors, at most 8)"
    )
    parser.add_argument("--device", type=text, help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    return parser


def main(argv=None):
    """Run the command line."""
    arguments = make_parser().parse_args(argv)
    with process_group(arguments.device, "gloo") as device:
        rank, processes = rank_and_world_size()
        encoder = make_encoder(arguments.encoder, arguments.weights, device)
        barrier = torch.distributed.barrier if processes > 1 else lambda: None
        batch, workers, tally = arguments.batch, arguments.workers, Tally()
        if is_text_encoder(encoder.name):
            if arguments.places or arguments.columns:
                raise InputError("texts have their places in their own table: leave out --places and --columns")
            meta = embed_texts(arguments.source, arguments.out, encoder, rank, processes, barrier, tally)
        else:
            meta = embed(
                arguments.source, arguments.out, encoder, arguments.places, batch, workers, rank, processes, barrier,
                arguments.columns and arguments.columns.split(","), arguments.max_pixels, tally,
            )  # fmt: skip
    if meta:
        print(f"{tally.used:,} embeddings of {meta['width']} numbers by {meta['encoder']} in {arguments.out}")
        print(tally, file=sys.stderr)
        if meta["without_place"] == tally.used:
            remedy = "give their places by --places FILE to train" * (tally.noun == "pictures")
            print(f"no place is known: {arguments.out} is good for predict, not for train; {remedy}", file=sys.stderr)
        if meta["failed"]:
            raise InputError(f"{meta['failed']:,} {tally.noun} failed; {arguments.out / 'failures.csv'} says why")


if __name__ == "__main__":
    options.run(main)
