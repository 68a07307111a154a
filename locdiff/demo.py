"""Try a model on a web page: drop pictures or type words, and see the density on a map that zooms.

python -m locdiff.demo RUN                  the page, for this machine alone; Ctrl-C ends it
python -m locdiff.demo RUN --port 0         at a port that is free
python -m locdiff.demo RUN --host 0.0.0.0   for everybody who reaches this machine, which is warned of

RUN is the folder of a training run, or a model on the Hugging Face Hub (OWNER/NAME). It needs pip install -e ".[demo]".
Nothing is written to disk, and the page loads nothing from elsewhere.
"""

import contextlib
import socket
from pathlib import Path

from locdiff import options
from locdiff.data.decoding import add_max_pixels
from locdiff.devices import pick_device
from locdiff.errors import InputError
from locdiff.pipeline import Pipeline
from locdiff.web.answers import Answers
from locdiff.web.server import INSTALL, is_loopback, make_app

PATIENCE_S = 3  # how long answers that are being computed may take when the server ends


def make_parser():
    """Return the parser of the command line."""
    parser = options.Parser(prog="python -m locdiff.demo", description=__doc__)
    text, whole = options.text, options.whole
    parser.add_argument(
        "run", type=text, metavar="RUN", help="folder of a training run, or OWNER/NAME on the Hugging Face Hub"
    )
    parser.add_argument(
        "--host", type=text, default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine alone)"
    )
    parser.add_argument("--port", type=whole(0, 65_535), default=8000, help="port; 0 takes a free one (default 8000)")
    parser.add_argument(
        "--weights", type=text, metavar="FILE", help="the encoder's weights, if the embeddings were made from a file"
    )
    add_max_pixels(parser)
    parser.add_argument("--device", type=text, help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--local-files-only", action="store_true", help="ask the Hugging Face Hub for nothing")
    return parser


def main(argv=None):
    """Run the command line until it is interrupted."""
    arguments = make_parser().parse_args(argv)
    try:
        import uvicorn
    except ImportError:
        raise InputError(f"the page needs uvicorn: {INSTALL}") from None
    pipeline = Pipeline.from_pretrained(
        arguments.run, pick_device(arguments.device), arguments.weights, local_files_only=arguments.local_files_only
    )
    app = make_app(Answers(pipeline, arguments.max_pixels), Path(arguments.run).resolve().name, arguments.host)
    with listen(arguments.host, arguments.port) as sock:
        if not is_loopback(arguments.host):
            print(f"warning: anybody who reaches {arguments.host} can use this page and this model")
        print(f"{address(sock)} shows the page; Ctrl-C ends it", flush=True)
        settings = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, ws="none", lifespan="off",
            timeout_graceful_shutdown=PATIENCE_S,
        )  # fmt: skip
        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises anew once it has ended
            uvicorn.Server(settings).run([sock])
    print("ended")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there. Raises InputError if the address cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(f"cannot listen at {host}, port {port}: {error}; choose another --host or --port") from None


def address(sock: socket.socket) -> str:
    """Return the address of the page that a socket serves."""
    host, port = sock.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


if __name__ == "__main__":
    options.run(main)
