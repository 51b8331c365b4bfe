"""Open MFT Studio:  python app.py [--port 7860] [--host 127.0.0.1] [--data-root DIR] [--no-browser]"""

from __future__ import annotations

import argparse
import fcntl
import os
import socket
import sys
import webbrowser
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
DEFAULT_PORT = 7860
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def prepare_environment(temporary: Path) -> None:
    """Close what Gradio would open by environment; before gradio is imported."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=str(temporary), HF_HUB_DISABLE_TELEMETRY="1")


def choose_port(host: str, wanted: int | None) -> int:
    """Return the wanted port, or the first free one from the default on; exit with status 2 if there is none."""
    for port in [wanted] if wanted else range(DEFAULT_PORT, DEFAULT_PORT + 100):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
        if not wanted and port != DEFAULT_PORT:
            print(f"Port {DEFAULT_PORT} is taken; using {port}.")
        return port
    print(f"Port {wanted or DEFAULT_PORT} is taken. Choose another one with --port.", file=sys.stderr)
    raise SystemExit(2)


def hold_root(root: Path, port: int) -> None:
    """Keep the data root for this studio as long as it lives; exit with status 2 if another one has it."""
    (root / "locks").mkdir(exist_ok=True)
    # never closed: the lock goes with the process
    descriptor = os.open(root / "locks" / "studio.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace")
        print(f"Another studio has {root} open: {holder}. Use it, or give --data-root another folder.", file=sys.stderr)
        raise SystemExit(2) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"port {port}, process {os.getpid()}".encode(), 0)


def main() -> int:
    """Parse arguments and serve until interrupted."""
    parser = argparse.ArgumentParser(description="MFT Studio: fine-tune one model on many tasks, in the browser.")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on")
    parser.add_argument("--port", type=int, help=f"port (default: {DEFAULT_PORT}, or the next free one)")
    parser.add_argument("--data-root", type=Path, help="where runs, datasets and models lie (default: ~/.mft-studio)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    arguments = parser.parse_args()
    if arguments.host not in LOOPBACK:
        parser.error("only loopback addresses are served: the studio has no login yet. Use an ssh tunnel.")
    if arguments.data_root:
        os.environ["MFT_STUDIO_HOME"] = str(arguments.data_root.resolve())

    from engine.contract.errors import UserError
    from engine.contract.places import data_root
    from engine.launch.queue import revive

    try:
        root = data_root().make()
    except UserError as error:
        parser.error(str(error))
    prepare_environment(root.temporary)
    revive(root)
    port = choose_port(arguments.host, arguments.port)
    import uvicorn

    from studio.context import StudioContext
    from studio.shell import build_app

    hold_root(root.path, port)
    url = f"http://[::1]:{port}" if arguments.host == "::1" else f"http://{arguments.host}:{port}"
    app = build_app(StudioContext(root=root, project=PROJECT))
    print(f"MFT Studio: {url}\n  data: {root.path}\n  Ctrl-C closes the studio; runs go on.", flush=True)
    if not arguments.no_browser:
        webbrowser.open(url)
    uvicorn.run(app, host=arguments.host, port=port, log_level="warning", timeout_graceful_shutdown=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
