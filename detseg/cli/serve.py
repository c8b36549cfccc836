"""`detseg serve`: a trained model as a web page where images are dropped, and as an HTTP API."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from detseg.cli.devices import chosen_device
from detseg.options import require_positive, require_share

if TYPE_CHECKING:
    import uvicorn

PACKAGES = ("starlette", "uvicorn", "python_multipart")
CONNECTIONS = 100  # at a time; more are answered with 503
HEADER_BYTES = 32_768  # of a request


@dataclass(frozen=True)
class Serve:
    """Serve a trained model: a web page where an image is dropped, and the same as an HTTP API.

    Open the address that is printed. Drop, choose or paste an image: boxes, masks or classes appear, a slider filters
    them by score, and JSON, CSV and the drawing can be saved. Nothing is loaded from the internet and no image is
    kept. Ctrl-C ends the server.

        detseg serve runs/detector-1
        detseg serve model.onnx --port 9000

    From a program (/docs on the server describes the API, /openapi.json is that for machines):

        curl -F file=@garden.jpg http://127.0.0.1:8000/predict

    Only this computer can reach the server. To let others in the network use it, who need no password:

        detseg serve runs/detector-1 --host 0.0.0.0
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder, or a file that `detseg export` wrote (.onnx, .xml, .torchscript)."""
    host: str = "127.0.0.1"
    """Address or name to listen at: 127.0.0.1 is this computer only, 0.0.0.0 everyone who reaches it."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    score_threshold: float = 0.3
    """Detectors: minimum score where a request names none; where the slider of the page stands at first."""
    max_megabytes: float = 32
    """Largest file that is taken, in megabytes."""
    max_megapixels: float = 64
    """Largest image that is taken, in million pixels; a larger one is refused before it is decoded."""
    timeout: float = 60
    """Seconds that an upload may take, and that its prediction may take."""
    queue: int = 8
    """Requests that may wait while another one is worked on; more are answered with status 503."""
    device: str = "auto"
    """Device of a run: auto, cpu, cuda, cuda:1 (or 1), mps, …. Exported models run on what their engine chooses."""

    def check(self) -> None:
        """Raise ValueError for values that options do not have."""
        require_share(self, "score_threshold")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port must be from 0 to 65535, not {self.port}")
        require_positive(self, "max_megabytes", "max_megapixels", "timeout")
        if self.queue < 0:
            raise ValueError(f"--queue must be at least 0, not {self.queue}")


def run(config: Serve) -> int:
    """Serve as `config` says until Ctrl-C; returns the exit code.

    Raises:
        ValueError: there is no model, an option has a wrong value, the address cannot be used, or a package is missing.
        KeyboardInterrupt: after Ctrl-C, when what was being answered has been.
    """
    config.check()
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ValueError(f"`detseg serve` needs {', '.join(missing)}: pip install 'detseg[serve]'")
    from detseg.cli.terminal import Terminal
    from detseg.console import print_line, working
    from detseg.serve.app import create_app
    from detseg.serve.guard import LOCAL, is_local
    from detseg.serve.limits import Limits

    console = Terminal()
    listening = listen(config.host, config.port)
    try:
        with working("loading the model", console):
            app = create_app(
                load(config.run, config.device),
                name=title(config.run),
                score_threshold=config.score_threshold,
                limits=Limits(
                    bytes=round(config.max_megabytes * 1e6),
                    pixels=round(config.max_megapixels * 1e6),
                    seconds=config.timeout,
                    waiting=config.queue,
                ),
                hosts=LOCAL | {config.host} if is_local(config.host) else None,
            )
            app.state.service.warm_up()
        print_line(console, f"{config.run}: {address(config.host, listening)}  (Ctrl-C ends it)")
        if not is_local(config.host):
            print_line(console, "warning: everyone who can reach this address can use the model; there is no password")
        server(app).run(sockets=[listening])
    finally:
        listening.close()
    return 0


def title(path: Path) -> str:
    """What the page calls a model: the folder of a run, which of it a file is."""
    path = path.resolve()
    return f"{path.parent.name}/{path.name}" if path.is_file() else path.name


def load(path: Path, device: str) -> Any:
    """The model of a run folder, on a device, or of an exported file, whose engine chooses its own."""
    import detseg.loading

    model = detseg.loading.load(path)
    if hasattr(model, "to"):
        model.to(chosen_device(device))
    elif device != "auto":
        raise ValueError(f"{path}: its engine chooses the device; leave out --device")
    return model


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address; ValueError where there can be none."""
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(place[:2], family=family)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"cannot listen at {host}, port {port}: {reason}; name another --port or --host") from error


def address(host: str, listening: socket.socket) -> str:
    """What to type into a browser on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{name}]' if ':' in name else name}:{listening.getsockname()[1]}"


def server(app: Any) -> uvicorn.Server:
    """The server of an application, which logs problems only."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            h11_max_incomplete_event_size=HEADER_BYTES,
            timeout_graceful_shutdown=5,
        )
    )
