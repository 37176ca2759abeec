"""The command line: `betatron run`, `betatron info`, `betatron kinds`.

Exit codes: 0 done; 1 could not be done (a file exists already, the disk is full, ...); 2 wrong
arguments or a wrong run file; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import difflib
import enum
import math
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import betatron
from betatron import runfile
from betatron.plot.style import quantity_unit, scale_and_unit

app = typer.Typer(
    name="betatron",
    help="Particle accelerator simulation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SHOWN = (
    ["s", "gamma", "n", "charge"]
    + [f"{moment}_{c}" for moment in ("mean", "sigma") for c in ("x", "px", "y", "py", "t", "pt")]
    + ["emittance_x", "emittance_y", "emittance_t", "emittance_xn", "emittance_yn"]
    + ["beta_x", "alpha_x", "beta_y", "alpha_y", "dispersion_x", "dispersion_px"]
)
"""Rows of the table of moments."""


class Precision(enum.StrEnum):
    single = "single"
    double = "double"


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(betatron.__version__)
        raise typer.Exit


@app.command()
def info() -> None:
    """Say what this installation is and what it can use."""
    console = _console()
    facts = betatron.info()
    table = Table(box=box.SIMPLE, show_header=False, title="Betatron", title_justify="left")
    for key, value in facts.items():
        if isinstance(value, dict):
            present = [name for name, there in value.items() if there]
            missing = [name for name, there in value.items() if not there]
            table.add_row(f"{key}, installed".replace("_", " "), Text(", ".join(present) or "none"))
            table.add_row(
                f"{key}, not installed".replace("_", " "), Text(", ".join(missing) or "none")
            )
        else:
            table.add_row(key.replace("_", " "), Text(str(value)))
    console.print(table)


@app.command()
def kinds(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="A kind, for its parameters.")
    ] = None,
) -> None:
    """List the kinds of elements, or the parameters of one."""
    console = _console()
    registry = betatron.kinds()
    if kind is None:
        table = Table("kind", "parameters (required ones first)", "what it is", box=box.SIMPLE)
        for name, parameters in registry.items():
            ordered = sorted(parameters, key=lambda p: not p["required"])
            table.add_row(
                name,
                ", ".join(str(p["name"]) for p in ordered),
                Text(_summary(name).split(". ")[0].rstrip(".")),
            )
        console.print(table)
        console.print("betatron kinds KIND tells more about one.", style="dim")
        return
    if kind not in registry:
        folded = {name.casefold(): name for name in registry}
        close = difflib.get_close_matches(kind.casefold(), folded, n=2)
        hint = f"; did you mean {' or '.join(folded[name] for name in close)}?" if close else ""
        _fail(2, f"there is no kind {kind!r}{hint}; known kinds: {', '.join(registry)}")
    console.print(Text(kind, style="bold"))
    console.print(Text(_summary(kind)))
    console.print(_parameter_table(registry[kind], "its parameters"))
    console.print(_parameter_table(betatron.common_parameters(), "parameters of every kind"))


@app.command()
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The run file.")],
    particles: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Instead of beam.n.")
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="Instead of beam.precision.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of beam.seed.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most so many; default: all.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Instead of output.directory.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that exist.")
    ] = False,
    plots: Annotated[
        bool | None, typer.Option("--plots/--no-plots", help="Draw all pictures, or none.")
    ] = None,
) -> None:
    """Track the beam of a run file; print its moments and write the results."""
    console = _console()
    try:
        job = runfile.load(file)
    except (runfile.RunFileError, OSError) as error:
        _fail(2, _message(error))
    if job.source.file is not None and not (
        particles is None and precision is None and seed is None
    ):
        _fail(
            2,
            "--particles, --precision and --seed are not allowed: the beam comes from "
            f"{job.source.file}",
        )
    if particles is not None:
        job.source.n = particles
    if precision is not None:
        job.source.precision = precision.value
    if seed is not None:
        job.source.seed = seed
    if threads is not None:
        job.threads = threads
    if output is not None:
        job.output.directory = output
    if plots is not None:
        if plots and job.output.directory is None:
            _fail(2, "--plots needs --output DIR, or a section output in the run file")
        job.output.plots = runfile.PICTURES if plots else ()
    try:
        result = job.run(overwrite=overwrite)
    except FileExistsError as error:
        _fail(1, f"{error} (--overwrite)")
    except KeyboardInterrupt:
        _fail(130, "stopped; nothing was written")
    except (OSError, ValueError, TypeError, KeyError, MemoryError, RuntimeError) as error:
        _fail(1, _message(error))
    _report(console, result)


def _report(console: Console, result: runfile.Result) -> None:
    job, beam = result.run, result.beam
    turns = f" x {job.turns} turns" if job.turns != 1 else ""
    console.print(
        Text(
            f"{job.line.name or job.path.name}: {len(job.line)} elements, {job.line.length:.6g} m"
            f"{turns}; {int(result.initial['n']):,} particles ({beam.reference.species.name}), "
            f"{beam.precision} precision"
        )
    )
    table = Table("", "unit", "initial", "final", box=box.SIMPLE_HEAD)
    for column in table.columns[2:]:
        column.justify = "right"
    for name in SHOWN:
        row = _moment_row(name, float(result.initial[name]), float(result.final[name]))
        table.add_row(*row)
    console.print(table)
    _report_losses(console, result)
    if result.seconds > 0 and result.pushes > 0:
        console.print(
            f"tracked in {_duration(result.seconds)}: {_rate(result.pushes / result.seconds)} "
            "particles x elements per second"
        )
    for path in result.files:
        console.print(Text(f"wrote {path}"), soft_wrap=True)


def _moment_row(name: str, initial: float, final: float) -> tuple[str, str, str, str]:
    if name == "n":
        return name, "", f"{initial:,.0f}", f"{final:,.0f}"
    unit = quantity_unit(name)
    if name == "s":
        factor, text = 1.0, "m"
    else:
        factor, text = scale_and_unit([initial, final], unit)
    return name, text, _number(factor * initial), _number(factor * final)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.6g}"


def _report_losses(console: Console, result: runfile.Result) -> None:
    lost = result.track.lost
    if result.track.n_lost == 0:
        console.print("no particles were lost")
        return
    console.print(f"{result.track.n_lost:,} particles were lost:")
    table = Table("element", "position", "reason", "particles", box=box.SIMPLE_HEAD)
    groups = lost.groupby(["element", "element_name", "reason"], sort=False).size()
    shown = groups.sort_values(ascending=False).head(10)
    for (position, name, reason), count in shown.items():
        table.add_row(Text(str(name)), str(position), str(reason), f"{count:,}")
    console.print(table)
    if len(groups) > len(shown):
        console.print(
            f"and {groups.sum() - shown.sum():,} at {len(groups) - len(shown)} other places"
        )


def _parameter_table(parameters: list[dict[str, Any]], title: str) -> Table:
    table = Table(
        "name",
        "unit",
        "default",
        "allowed",
        "what it is",
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for p in parameters:
        default = "required" if p["required"] else repr(p["default"])
        table.add_row(
            p["name"], Text(str(p["unit"])), Text(default), Text(allowed(p)), Text(str(p["doc"]))
        )
    return table


def allowed(parameter: dict[str, Any]) -> str:
    """The allowed values of a parameter described by betatron.kinds(), in words; empty if any will
    do.
    """
    if parameter["choices"]:
        return ", ".join(parameter["choices"])
    if parameter["type"] not in ("int", "float"):
        return ""
    low, high = float(parameter["minimum"]), float(parameter["maximum"])
    parts = []
    if math.isfinite(low):
        parts.append(f"{'>' if parameter['open_below'] else '>='} {low:g}")
    if math.isfinite(high):
        parts.append(f"<= {high:g}")
    return ", ".join(parts)


def _summary(kind: str) -> str:
    doc = getattr(betatron, kind).__doc__ or ""
    return doc.partition("\n\nParameters")[0].strip()


def _duration(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _rate(value: float) -> str:
    exponent = 3 * math.floor(math.log10(value) / 3) if value > 0 else 0
    return f"{value / 10.0**exponent:.3g}e{exponent}" if exponent > 3 else f"{value:,.0f}"


def _console() -> Console:
    return Console(highlight=False, markup=False)


def _message(error: BaseException) -> str:
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])  # str() of a KeyError puts it in quotes
    if isinstance(error, MemoryError):
        return "not enough memory for so many particles or records"
    return str(error) or type(error).__name__


def _fail(code: int, message: str) -> NoReturn:
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(
        f"betatron: {message}"
    )
    raise typer.Exit(code)
