"""Export a model as one file, for programs without this one: embeddings in, densities over the Earth out.

python -m locdiff.export RUN model.onnx                    for onnxruntime and others
python -m locdiff.export RUN model.pt2                     for torch.export.load
python -m locdiff.export RUN model.onnx --level-0          level 0 of a model with refinement levels, which is coarser

The input is `embeddings` (n, embed_dim), for any n. The outputs are `natural_params` (n, D), calibrated, and
`pixel_probs` (n, 12 nside^2), the probability of each HEALPix pixel in RING order; for a loss without natural
parameters the first is `coeffs`. The file says what it is in its metadata. It is checked against the model before it is
written. Encoders, samples, modes and refinement levels are not in it.
"""

from locdiff import options
from locdiff.files import atomic_path, check_ending, replaced_file
from locdiff.model.exported import FORMATS, about, check_exportable, deviation, typical_embeddings
from locdiff.model.locdiffusion import LocDiffusion


def make_parser():
    """Return the parser of the command line."""
    parser = options.Parser(prog="python -m locdiff.export", description=__doc__)
    parser.add_argument(
        "run", type=options.text, metavar="RUN", help="folder of a training run, or OWNER/NAME on the Hugging Face Hub"
    )
    parser.add_argument("out", type=options.path, metavar="FILE", help="file to write, .onnx or .pt2")
    parser.add_argument("--level-0", action="store_true", help="leave the refinement levels out")
    return parser


def main(argv=None):
    """Run the command line; return the file."""
    arguments = make_parser().parse_args(argv)
    check_ending(arguments.out, tuple(FORMATS))
    replaced_file(arguments.out)
    model = LocDiffusion.from_pretrained(arguments.run, "cpu")
    check_exportable(model, arguments.level_0)
    write, read = FORMATS[arguments.out.suffix.lower()]
    data, embeddings = write(model), typical_embeddings(model)
    of_coeffs, of_probs = deviation(model, read(data, embeddings), embeddings)
    with atomic_path(arguments.out) as path:
        path.write_bytes(data)
    own = about(model)
    print(f"written: {arguments.out}, {len(data) / 1e6:.1f} MB, level {own['level']}")
    print(f"input: {own['input']}\noutputs: {own['outputs']}")
    print(f"differs from the model by {of_coeffs:.0e} of the largest parameter and {of_probs:.0e} in a probability")
    return arguments.out


if __name__ == "__main__":
    options.run(main)
