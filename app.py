"""CCE Studio: `python app.py` serves the page on http://127.0.0.1:7860. `--help` tells the rest.

On a Hugging Face Space this file is run as it is; GRADIO_SERVER_NAME and GRADIO_SERVER_PORT, which a
Space sets, are the defaults of --host and --port. Where CCE_STUDIO_HOME is set, everything that is
written goes below it.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import cce  # noqa: F401  before PyTorch: it says how its threads wait
from app.uploads import private_folder

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
if home := os.environ.get("CCE_STUDIO_HOME"):
    os.environ.setdefault("GRADIO_TEMP_DIR", private_folder(str(Path(home).expanduser() / "tmp")))
    os.environ.setdefault("CCE_DATA", str(Path(home).expanduser() / "data"))
os.environ.setdefault("GRADIO_TEMP_DIR", private_folder())


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="CCE Studio: attack, inspect and train collaborating ensembles.")
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")  # a string: argparse reads it, and refuses it, as it is typed
    parser.add_argument("--host", default=host, help=f"address to serve on (default {host}: this machine alone)")
    parser.add_argument(
        "--allow-host",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names besides localhost that a Studio on this machine alone answers to, as behind a proxy",
    )
    parser.add_argument("--port", type=int, default=port, help=f"port to serve on (default {port})")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="checkpoint folders, or folders of them (default: the released ones)",
    )
    parser.add_argument(
        "--data", type=Path, help="folder of the data sets (default: CCE_DATA or ~/.cache/cce-studio/data)"
    )
    parser.add_argument(
        "--runs", type=Path, help="folder of the training runs (default: CCE_STUDIO_HOME/runs, else ./runs)"
    )
    parser.add_argument("--device", default="auto", help="where to compute: auto, cpu, cuda, mps (default auto)")
    parser.add_argument(
        "--mcp",
        action="store_true",
        default=os.environ.get("GRADIO_MCP_SERVER", "").lower() in ("1", "true"),
        help="also offer the endpoints as tools for an assistant, at /gradio_api/mcp/ (needs: pip install mcp==1.30.0)",
    )
    return parser.parse_args(arguments)


def port_problem(host: str, port: int) -> str | None:
    """Why the port cannot be served on, None where it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            return getattr(error, "strerror", None) or str(error)
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the Studio until it is stopped; returns the exit status."""
    options = parse(arguments)
    if problem := port_problem(options.host, options.port):
        print(
            f"CCE Studio cannot use port {options.port} on {options.host}: {problem}.\n"
            f"Stop what uses it, or take another: python app.py --port {options.port + 1}",
            file=sys.stderr,
        )
        return 1
    if options.mcp and not find_spec("mcp"):
        print("CCE Studio: --mcp needs one more package. Install it with: pip install mcp==1.30.0", file=sys.stderr)
        return 2
    if find_spec("spaces"):  # ZeroGPU's package must come before torch
        import_module("spaces")
    import torch

    from app.interface import build, launch_settings
    from app.services.models import Registry
    from app.services.training import Training
    from app.studio import Studio
    from cce import kernels
    from cce.config import ConfigError
    from cce.machine import shards
    from cce.models import fast_dtype

    shards.use(torch.get_num_threads())
    torch.set_num_threads(1)  # one picture is attacked quickest by one thread; what is more is shared among all
    training = Training.at(options.runs, options.data)
    try:
        registry = Registry(options.checkpoints, options.device, training.jobs.checkpoints)
    except ConfigError as error:
        print(f"CCE Studio: {error}", file=sys.stderr)
        return 2
    training.watch()
    if registry.device.type == "cpu" and fast_dtype(registry.device) == torch.float32:
        kernels.prepare()
    demo = build(Studio(registry, options.data, training))
    settings = launch_settings(demo, options.host, options.allow_host) | {"mcp_server": options.mcp}
    demo.launch(server_name=options.host, server_port=options.port, prevent_thread_lock=True, **settings)
    print(f"CCE Studio is on http://{options.host}:{options.port} (stop it with Ctrl+C)", flush=True)
    demo.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
