"""Make a simulation of photographs: places, seen through GeoCLIP's location encoder and noise.

  python -m locdiff.simulation data/simulation                              held-out places of GeoCLIP's gallery as test
  python -m locdiff.simulation data/simulation --truth im2gps3k_places365.csv     the places of Im2GPS3k as test

GeoCLIP was trained so that the embedding of a picture lies near the embedding of its place. Here the picture is left
out: its embedding is that of its place plus noise, scaled to a mean square of one. With the default noise, retrieval is
right about as often as GeoCLIP on the pictures of Im2GPS3k. Places are real, pictures are not; and as the queries come
from GeoCLIP's own encoder, a comparison favours GeoCLIP. OUT has train/ and test/: `locdiff.train --data OUT` reads it.
"""

from pathlib import Path

from locdiff import options
from locdiff.data.simulated import Simulation, simulation


def main(argv=None):
    """Run the command line; return the folder."""
    parser = options.Parser(prog="python -m locdiff.simulation", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, which must not exist")
    options.add_options(parser, "simulation", Simulation)
    arguments = vars(parser.parse_args(argv))
    out = arguments.pop("out")
    if out.exists():
        parser.error(f"{out} exists already; choose another folder")
    settings = Simulation(**{name: value for name, value in arguments.items() if value is not None})
    simulation(settings, out)
    print(f"written: {out}; train on it with python -m locdiff.train --data {out}")
    return out


if __name__ == "__main__":
    options.run(main)
