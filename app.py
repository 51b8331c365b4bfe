"""Open MFT Studio:  python app.py [--port 7860] [--data-root DIR] [--no-browser]

To open it to other machines:  python app.py --set-password NAME
                               python app.py --host 0.0.0.0 --allowed-host gpu-box.lab [--certificate PEM --key PEM]
"""

from __future__ import annotations

import argparse
import fcntl
import getpass
import os
import secrets
import socket
import sys
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.contract.places import DataRoot
    from studio.access.opening import Access

PROJECT = Path(__file__).resolve().parent
DEFAULT_PORT = 7860


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


def hold_root(root: Path, port: int) -> str:
    """Keep the data root for this studio as long as it lives; exit with status 2 if another one has it.

    Returns:
        The token of this start, also in `locks/studio.token`, for programs that drive the studio.
    """
    from engine.contract.files import replace_text

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
    token = secrets.token_urlsafe(32)
    replace_text(root / "locks" / "studio.token", token, mode=0o600)
    return token


def read_arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Return the parser, for its errors, and what was asked for."""
    parser = argparse.ArgumentParser(description="MFT Studio: fine-tune one model on many tasks, in the browser.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: only this machine)")
    parser.add_argument("--port", type=int, help=f"port (default: {DEFAULT_PORT}, or the next free one)")
    parser.add_argument("--data-root", type=Path, help="where runs, datasets and models lie (default: ~/.mft-studio)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument("--allowed-host", action="append", default=[], metavar="NAME", help="name in people's browsers")
    parser.add_argument("--certificate", type=Path, metavar="PEM", help="serve https with this certificate")
    parser.add_argument("--key", type=Path, metavar="PEM", help="key of the certificate")
    me = getpass.getuser().lower()
    parser.add_argument("--set-password", nargs="?", const=me, metavar="NAME", help="ask for a password, then end")
    parser.add_argument("--remove-user", metavar="NAME", help="remove an account, then end")
    return parser, parser.parse_args()


def main() -> int:
    """Parse arguments and serve until interrupted."""
    parser, arguments = read_arguments()
    if arguments.data_root:
        os.environ["MFT_STUDIO_HOME"] = str(arguments.data_root.resolve())

    from engine.contract.errors import UserError
    from engine.contract.places import data_root
    from studio.access.accounts import Accounts
    from studio.access.opening import ask_password, check_opening

    try:
        root = data_root().make()
        accounts = Accounts(root.accounts)
        if arguments.set_password:
            ask_password(accounts, arguments.set_password)
            print(f"{arguments.set_password} can log in. Other sessions of that name have ended.")
            return 0
        if arguments.remove_user:
            accounts.remove(arguments.remove_user)
            print(f"{arguments.remove_user} can no longer log in.")
            return 0
        access = check_opening(arguments.host, arguments.allowed_host, accounts)
    except UserError as error:
        parser.error(str(error))
    if bool(arguments.certificate) != bool(arguments.key):
        parser.error("--certificate and --key belong together.")
    if access.exposed and not arguments.certificate:
        print("Without --certificate passwords cross the network unencrypted: use it only in a network you trust.")
    prepare_environment(root.temporary)
    serve(arguments, root, access)
    return 0


def serve(arguments: argparse.Namespace, root: DataRoot, access: Access) -> None:
    """Build the application and serve it until interrupted; heavy imports happen here."""
    from engine.contract.files import replace_text
    from engine.launch.notices import url_file
    from engine.launch.queue import revive

    revive(root)
    port = choose_port(arguments.host, arguments.port)
    import uvicorn

    from studio import janitor
    from studio.context import StudioContext
    from studio.shell import build_app

    token = hold_root(root.path, port)
    scheme = "https" if arguments.certificate else "http"
    address = arguments.allowed_host[0] if access.exposed else arguments.host
    url = f"{scheme}://[{address}]:{port}" if ":" in address else f"{scheme}://{address}:{port}"
    replace_text(url_file(root), url)
    janitor.start(root.temporary)
    app = build_app(StudioContext(root=root, project=PROJECT), replace(access, port=port, token=token))
    print(f"MFT Studio: {url}\n  data: {root.path}\n  Ctrl-C closes the studio; runs go on.", flush=True)
    if not arguments.no_browser and not access.exposed:
        webbrowser.open(url)
    uvicorn.run(
        app,
        host=arguments.host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=2,
        proxy_headers=False,  # nobody may claim to be another address
        server_header=False,
        ssl_certfile=arguments.certificate,
        ssl_keyfile=arguments.key,
    )


if __name__ == "__main__":
    sys.exit(main())
