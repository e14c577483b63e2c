"""`mdslite up`: the appliance in this process, and what to type next once it serves.

The appliance announces lines as it starts. This command prints them, and when the line that says where
it serves has come, asks that very address what it serves, so that what it suggests is sure to work.
"""

from __future__ import annotations

import gc
import os
import re
import shlex
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from mdslite import errors
from mdslite.cli import output
from mdslite.cli.files import similar
from mdslite.cli.options import DEFAULT_STORE, addressed_to, json_option, read_token, starting
from mdslite.cli.suggestions import BETWEEN, suggest
from mdslite.cli.usage import refuse_typed
from mdslite.fields import parse_memory

if TYPE_CHECKING:
    from mdslite.cli.beside import Beside

CERTIFICATE = "tls/cert.pem"  # in the store, where the appliance makes its own


def read_size(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """Bytes of what an option says, such as 4Gi."""
    try:
        return None if text is None else 0 if text == "0" else parse_memory(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc), context, option) from exc


def read_days(context: click.Context, option: click.Parameter, days: float | None) -> float | None:
    """Seconds."""
    return None if days is None else days * 86_400


_SERVING = re.compile(r"serving on (?P<url>https?://\S+)")
_GRPC = re.compile(r"gRPC (?P<place>\S+)")
_NEXT = "next: "
_JOIN_WAIT_S = 5.0
_ASK_S = 2.0


@click.command(
    epilog="""\b
Examples:
  mdslite up model.onnx            # served as default/model v1
  mdslite up deployments.yaml      # applied first, if it has changed since
  mdslite up                       # whatever the store holds
  mdslite up --dash                # with the dashboard in this terminal
  mdslite up --port 0              # any free port; the URL is printed
  mdslite up --grpc-port 8501      # gRPC beside HTTP
  mdslite up --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
  mdslite up --host 0.0.0.0 --tls-self-signed
  mdslite up --log-days 30 --log-size 100Gi
  mdslite up --body-budget 512Mi   # large inputs on a small machine
  mdslite up --traces http://localhost:4318

To serve beyond this machine takes a token: mdslite token create --help.

Stops on Ctrl-C, SIGTERM or SIGHUP (its terminal is closed) after finishing what is in flight."""
)
@click.argument("file", type=click.Path(), metavar="[FILE]", required=False)
@click.option(
    "--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="The address to serve on."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="PORT", default=8500, show_default=True,
    help="The port to serve on; 0: any free one.",
)  # fmt: skip
@click.option(
    "--grpc-port", type=click.IntRange(0, 65535), metavar="PORT",
    help="Serve gRPC too, on this port; 0: any free one. Needs mdslite[grpc].",
)  # fmt: skip
@click.option(
    "--store", type=click.Path(), default=DEFAULT_STORE, show_default=True, metavar="DIR",
    help="Where all is kept: what is deployed, models, the request log.",
)  # fmt: skip
@click.option("--tls-cert", type=click.Path(), metavar="FILE", help="Serve TLS with this certificate (PEM).")
@click.option("--tls-key", type=click.Path(), metavar="FILE", help="The certificate's key (PEM).")
@click.option("--tls-self-signed", is_flag=True, help="Serve TLS with a certificate made here, for a try.")
@click.option(
    "--tls-client-ca", type=click.Path(), metavar="FILE",
    help="Serve only clients with a certificate of these authorities (PEM).",
)  # fmt: skip
@click.option("--insecure", is_flag=True, help="Serve beyond this machine though there are no tokens.")
@click.option(
    "--allow-host", "allow_hosts", multiple=True, metavar="NAME", help="Also answer to this Host. Repeatable."
)
@click.option(
    "--allow-internal", multiple=True, metavar="HOST[:PORT]",
    help="Let model URIs and webhooks lead to this internal address. Repeatable.",
)  # fmt: skip
@click.option(
    "--drain-grace", "drain_grace_s", type=click.FloatRange(min=0), metavar="SECONDS",
    help="How long to go on accepting after SIGTERM or Ctrl-C; else 1.",
)  # fmt: skip
@click.option(
    "--body-budget", "body_budget_bytes", callback=read_size, metavar="SIZE",
    help="What large bodies under way may take of memory, all together; else a quarter of it, at most 4Gi.",
)  # fmt: skip
@click.option("--no-log", is_flag=True, help="Keep no request log, and so no request metrics and no alerts.")
@click.option(
    "--log-days", "log_age_s", type=click.FloatRange(min=0, min_open=True), callback=read_days,
    metavar="DAYS", help="How long requests are kept; else 7.",
)  # fmt: skip
@click.option(
    "--log-size", "log_bytes", callback=read_size, metavar="SIZE",
    help="What the log may take on disk, such as 20Gi; else 4Gi.",
)  # fmt: skip
@click.option(
    "--log-sample-size", "log_sample_bytes", callback=read_size, metavar="SIZE",
    help="What of it bodies may take that no version's rule asks for; else 1Gi.",
)  # fmt: skip
@click.option(
    "--traces", metavar="URL",
    help="Export traces to this OpenTelemetry collector (OTLP over HTTP). Needs mdslite[otel].",
)  # fmt: skip
@click.option(
    "--trace-share", type=click.FloatRange(0, 1), metavar="SHARE",
    help="How many of the requests without a trace of their caller's begin one; else 0.01.",
)  # fmt: skip
@click.option("--dash", is_flag=True, help="Open the dashboard here once it serves.")
@json_option
@starting
def up(
    file: str | None,
    store: str,
    tls_cert: str | None,
    tls_key: str | None,
    tls_self_signed: bool,
    tls_client_ca: str | None,
    no_log: bool,
    dash: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Start the appliance on its store and serve. FILE is a deployments.yaml or a model."""
    _check(file, tls_cert, tls_key, tls_client_ca, self_signed=tls_self_signed)
    if no_log:
        refuse_typed("beside --no-log", "log_age_s", "log_bytes", "log_sample_bytes")
    if options["traces"] is None:
        refuse_typed("without --traces", "trace_share")
    companion = None
    if dash:
        from mdslite.cli import beside

        beside.check(as_json=as_json)
        companion = beside.Beside(Path(store))
    gc.disable()  # a tenth of the imports' time goes into looking for garbage in them, and there is none
    from mdslite.appliance import serve
    from mdslite.assembly import Settings

    gc.enable()

    # The other options are named as the settings are; what was not chosen is theirs to know.
    chosen = {name: value for name, value in options.items() if value is not None}
    settings = Settings(
        store=Path(store),
        file=_path(file),
        tls_cert=_path(tls_cert),
        tls_key=_path(tls_key),
        tls_client_ca=_path(tls_client_ca),
        tls_self_signed=tls_self_signed,
        log=not no_log,
        **chosen,
    )
    if tls_self_signed:
        tls_cert = str(Path(store) / CERTIFICATE)
    announcer = Announcer(file, store, tls_cert, as_json=as_json, companion=companion)
    try:
        return serve(settings, announcer)
    except errors.AddressInUse as exc:
        if (there := _appliance_at(settings.host, settings.port, exc)) is not None:
            exc.hint = f"{there}, or {exc.hint}"
        raise
    finally:
        announcer.close()


def _appliance_at(host: str, port: int, error: errors.AddressInUse) -> str | None:
    """What there is to say of the one that has the port, where it is an appliance; None where that cannot be
    learnt."""
    if f"{host}:{port}:" not in error.message:  # but the one for gRPC
        return None
    place = f"{f'[{host}]' if ':' in host else host}:{port}"
    found = _ask(f"http://{place}", token=read_token())
    if not found and (told := _ask(f"https://{place}", token=None)) is not None:
        found = told
    if found is None:
        return None
    store, pid = found.get("store"), found.get("pid")
    where = f", on the store {store} (process {pid})" if store and pid else ""
    return f"an appliance serves there already{where}: stop it first"


def _ask(url: str, *, token: str | None) -> Mapping[str, Any] | None:
    """What an appliance says of itself, nothing where it asks for a token; None where there is no appliance.
    Whoever that is may show any certificate: nothing is told it but the token, if that is given."""
    import httpx2

    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    try:
        with httpx2.Client(verify=False, trust_env=False, timeout=_ASK_S) as client:
            reply = client.get(f"{url}/api/v1/status", headers=headers)
            found = reply.json() if reply.status_code == 200 else {}
    except (httpx2.HTTPError, ValueError):
        return None
    return found if "mdslite-request-id" in reply.headers and isinstance(found, dict) else None


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _check(
    file: str | None, tls_cert: str | None, tls_key: str | None, client_ca: str | None, *, self_signed: bool
) -> None:
    if file is not None and not Path(file).exists():
        meant = similar(Path(file))
        raise errors.InvalidRequest(
            f"there is no {file}: expected a deployments.yaml, a model file or a package folder",
            hint="mdslite up --help" if meant is None else f"mdslite up {shlex.quote(str(meant))}",
        )
    if (tls_cert is None) != (tls_key is None):
        missing, given = ("--tls-cert", "--tls-key") if tls_cert is None else ("--tls-key", "--tls-cert")
        raise errors.InvalidRequest(
            f"{given} needs {missing} beside it", hint="or --tls-self-signed alone, for a try"
        )
    if self_signed and tls_cert is not None:
        raise errors.InvalidRequest(
            "--tls-self-signed makes a certificate, and --tls-cert gives one: choose",
            hint="leave --tls-self-signed out to show yours",
        )
    if client_ca is not None and tls_cert is None and not self_signed:
        raise errors.InvalidRequest(
            "--tls-client-ca needs --tls-cert and --tls-key, or --tls-self-signed",
            hint="clients show certificates over TLS alone",
        )


class Announcer:
    """Prints what the appliance announces; a reader that went away never stops the appliance. `companion` is
    started once the appliance serves."""

    def __init__(
        self,
        file: str | None,
        store: str,
        tls_cert: str | None,
        *,
        as_json: bool,
        companion: Beside | None = None,
    ) -> None:
        self._file = file
        self._store = store
        self._tls_cert = tls_cert
        self._as_json = as_json
        self._companion = companion
        self._thread: threading.Thread | None = None
        self._url: str | None = None

    def __call__(self, line: str) -> None:
        found = _SERVING.search(line)
        if found is None:
            _print(line if self._url is None else addressed_to(self._url, line), sys.stderr)
            return
        url = self._url = found["url"]
        if self._as_json:
            where: dict[str, Any] = {
                "url": url,
                "docs": f"{url}/docs",
                "metrics": f"{url}/metrics",
                "pid": os.getpid(),
            }
            if (grpc := _GRPC.search(line)) is not None:
                where["grpc"] = grpc["place"]
            _print(output.json_text(where), sys.stdout)
            return
        _print(line, sys.stdout)
        if self._companion is not None:
            self._companion.start()
            return
        # The appliance announces from the thread that also has to answer: ask it from another one.
        self._thread = threading.Thread(target=self._suggest, args=(url,), name="suggest", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._companion is not None:
            self._companion.close()
        if self._thread is not None:
            self._thread.join(_JOIN_WAIT_S)

    def _suggest(self, url: str) -> None:
        found = suggest(url, file=self._file, tls_cert=self._tls_cert, ask=f"unix:{self._store}")
        width = output.width_of(sys.stdout)
        fits = width is None or len(found) + len(_NEXT) <= width
        for number, line in enumerate([found] if fits else found.split(BETWEEN)):
            _print((" " * len(_NEXT) if number else _NEXT) + line, sys.stdout)


def _print(line: str, stream: TextIO) -> None:
    try:
        shown = output.escape(line)
        stream.write((output.fitted(shown, stream) if stream is sys.stderr else shown) + "\n")
        stream.flush()
    except OSError:
        output.discard(stream)
