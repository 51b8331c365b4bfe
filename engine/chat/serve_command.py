"""`python -m engine serve RUN`: the base model and the checkpoints of a run behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import argparse
import secrets
import socket

from engine.contract.errors import UserError
from engine.contract.loopback import SERVE_PORT
from engine.contract.places import data_root
from engine.contract.speakers import PRECISIONS, base_of, find_speaker, newest, speakers_of
from engine.export.merge_command import find_run
from engine.launch.beside import take_seat


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="run directory, or the id of a run in the data root")
    parser.add_argument(
        "--checkpoint", action="append", default=[], help="serve this one; may be repeated (default: all of them)"
    )
    parser.add_argument("--port", type=int, default=SERVE_PORT, help=f"default: {SERVE_PORT}; 0 = any free one")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="how the base model is held")


def run(arguments: argparse.Namespace) -> int:
    """Load the newest checkpoint, print address and token, and answer until interrupted."""
    run_dir = find_run(arguments.run)
    base, *others = speakers_of(run_dir)
    if arguments.checkpoint:
        others = [find_speaker(run_dir, name) for name in arguments.checkpoint]
    listening = listen(arguments.port)
    if reason := take_seat(data_root().make()):
        print(f"  {reason}", flush=True)
    import uvicorn

    from engine.chat.models import ChatModels
    from engine.chat.server import build_app

    models = ChatModels(base_of(run_dir, arguments.precision), lambda text: print(f"  {text}", flush=True))
    models.bring([newest(others) or base])
    token = secrets.token_urlsafe(32)
    app = build_app(models, {speaker.name: speaker for speaker in (base, *others)}, token=token)
    print(f"Endpoint: http://127.0.0.1:{listening.getsockname()[1]}/v1\n  token: {token}")
    print(f"  models: {', '.join(speaker.name for speaker in (base, *others))}\n  Ctrl-C ends it.", flush=True)
    config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=2, ws="none")
    uvicorn.Server(config).run(sockets=[listening])
    return 0


def listen(port: int) -> socket.socket:
    """Return a socket that listens on the loopback address.

    Raises:
        UserError: If the port is taken or no port.
    """
    listening = socket.socket(socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except (OSError, OverflowError):
        listening.close()
        raise UserError(f"Port {port} cannot be used.", fix="choose another one with --port, or 0.") from None
    return listening
