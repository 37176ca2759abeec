"""MkDocs hook: the reference pages, made from the package itself when the documentation is built.

`reference/elements.md` comes from the registry of kinds in the C++ core, `reference/python.md` from
the docstrings of the public classes and functions. Neither can be out of date, and neither is a
file.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

ELEMENTS = "reference/elements.md"
PYTHON = "reference/python.md"

# What the classes of the package are built on, and not for users.
INTERNAL = {
    "Beam": {"column", "check_finite", "lost_columns", "set_lost", "summary"},
    "Line": {"element", "expand", "linear_map", "piece_derivative"},
}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to the documentation; called by MkDocs."""
    from mkdocs.structure.files import File

    for path, text in ((ELEMENTS, elements_page()), (PYTHON, python_page())):
        files.append(File.generated(config, path, content=text))
    return files


# --- elements -------------------------------------------------------------------------------------


def elements_page() -> str:
    """All kinds of elements with their parameters, as Markdown."""
    import betatron

    lines = [
        "# Elements",
        "",
        "All kinds of elements with their own parameters; those",
        "[of every kind](#parameters-of-every-kind) are at the end. Signs are explained in",
        "[Coordinates, signs and units](../conventions.md#signs), models in",
        "[Concepts](../concepts.md#elements-and-models). The same text is in `betatron kinds KIND`",
        "and in `help(betatron.Quadrupole)`.",
        "",
    ]
    for kind, parameters in betatron.kinds().items():
        summary = (getattr(betatron, kind).__doc__ or "").partition("\n\nParameters")[0]
        lines += [f"## {kind}", "", summary, "", *_parameter_table(parameters)]
    lines += ["## Parameters of every kind", "", *_parameter_table(betatron.common_parameters())]
    return "\n".join(lines)


def _parameter_table(parameters: list[dict[str, Any]]) -> Iterator[str]:
    from betatron.cli import allowed

    if not parameters:
        yield from ("No parameters of its own.", "")
        return
    yield from ("| parameter | unit | default | allowed | |", "|---|---|---|---|---|")
    for p in parameters:
        default = "required" if p["required"] else f"`{p['default']!r}`"
        cells = [
            f"`{p['name']}`",
            p["unit"].replace("^2", "²").replace("^3", "³").replace("^4", "⁴"),
        ]
        cells += [default, allowed(p).replace(">=", "≥").replace("<=", "≤"), p["doc"]]
        yield "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"
    yield ""


# --- Python ---------------------------------------------------------------------------------------


def python_page() -> str:
    """The public classes and functions with their docstrings, as Markdown."""
    import betatron as bt
    from betatron import advisor, elements, line, losses, runfile
    from betatron.collective import Effect
    from betatron.distributions import Distribution
    from betatron.plot import BeamPlots, LinePlots, TrackPlots, TwissPlots
    from betatron.surrogate.onnx import from_onnx
    from betatron.surrogate.readers import from_safetensors, from_torch

    sections: dict[str, list[tuple[str, Any]]] = {
        "Reference particle": [
            ("betatron.Species", bt.Species),
            ("betatron.Reference", bt.Reference),
        ],
        "Beams": [("betatron.Beam", bt.Beam)],
        "Distributions": [("betatron.distributions.Distribution", Distribution)]
        + [(f"betatron.{shape}", getattr(bt, shape)) for shape in runfile.DISTRIBUTIONS],
        "Elements": [
            ("betatron.Element", bt.Element),
            ("betatron.elements.element_from_dict", elements.element_from_dict),
            ("betatron.kinds", bt.kinds),
            ("betatron.common_parameters", bt.common_parameters),
        ],
        "Lines and tracking": [
            ("betatron.Line", bt.Line),
            ("betatron.Track", line.Track),
            ("betatron.Envelope", line.Envelope),
            ("betatron.TaylorSeries", bt.TaylorSeries),
            ("betatron.Chromaticity", bt.Chromaticity),
            ("betatron.Optics", bt.Optics),
            ("betatron.Twiss", bt.Twiss),
            ("betatron.Radiation", bt.Radiation),
        ],
        "Code of your own": [
            ("betatron.Hooks", bt.Hooks),
            ("betatron.State", bt.State),
            ("betatron.Programmable", bt.Programmable),
            ("betatron.programmable.c_signature", bt.programmable.c_signature),
            ("betatron.UserCodeError", bt.UserCodeError),
        ],
        "Collective effects": [
            (f"betatron.{name}", getattr(bt, name))
            for name in bt.__all__
            if inspect.isclass(getattr(bt, name)) and issubclass(getattr(bt, name), Effect)
        ]
        + [
            ("betatron.advise", bt.advise),
            ("betatron.Advice", bt.Advice),
            ("betatron.advisor.KickErrors", advisor.KickErrors),
        ],
        "Gradients": [
            ("betatron.Gradient", bt.Gradient),
            ("betatron.EnvelopeGradient", bt.EnvelopeGradient),
            ("betatron.Objective", bt.Objective),
            ("betatron.EnvelopeObjective", bt.EnvelopeObjective),
            *((f"betatron.losses.{name}", getattr(losses, name)) for name in losses.__all__),
        ],
        "Networks": [
            ("betatron.surrogate.Network", bt.surrogate.Network),
            ("betatron.surrogate.Layer", bt.surrogate.Layer),
            ("betatron.surrogate.readers.from_torch", from_torch),
            ("betatron.surrogate.readers.from_safetensors", from_safetensors),
            ("betatron.surrogate.onnx.from_onnx", from_onnx),
            ("betatron.Surrogate", bt.Surrogate),
        ],
        "Plots": [
            ("beam.plot", BeamPlots),
            ("line.plot", LinePlots),
            ("track.plot", TrackPlots),
            ("twiss.plot", TwissPlots),
        ],
        "Run files": [
            ("betatron.runfile.load", runfile.load),
            ("betatron.runfile.Run", runfile.Run),
            ("betatron.runfile.Result", runfile.Result),
            ("betatron.runfile.RunFileError", runfile.RunFileError),
        ],
        "The installation": [("betatron.info", bt.info)],
    }
    lines = [
        "# Python",
        "",
        "What the package `betatron` offers. The kinds of elements are on",
        "[a page of their own](elements.md).",
        "",
    ]
    for title, entries in sections.items():
        lines += [f"## {title}", ""]
        for name, thing in entries:
            lines += (
                _class(name, thing)
                if inspect.isclass(thing)
                else _function(f"### {name}", name, thing)
            )
    return "\n".join(lines)


def _class(name: str, cls: type) -> list[str]:
    lines = [f"### {name}", ""]
    if (
        "__init__" in vars(cls)
        and not name.endswith(".plot")
        and name
        not in (
            "betatron.Track",
            "betatron.Envelope",
            "betatron.Gradient",
            "betatron.EnvelopeGradient",
            "betatron.State",
            "betatron.UserCodeError",
            "betatron.losses.Loss",
        )
    ):
        lines += _signature(name.rpartition(".")[2], cls.__init__)
    lines += [_markdown(inspect.getdoc(cls) or ""), ""]
    properties, methods = [], []
    for member in _public_members(cls):
        value = inspect.getattr_static(cls, member)
        if isinstance(value, property):
            properties.append(f"- **`{member}`**: {_one_paragraph(value.__doc__) or 'see above.'}")
        elif callable(getattr(cls, member)):
            methods += _function(
                f"#### {name.rpartition('.')[2]}.{member}", member, getattr(cls, member)
            )
    if properties:
        lines += ["Attributes:", "", *properties, ""]
    return lines + methods


def _public_members(cls: type) -> list[str]:
    """Own and inherited ones with documentation, own ones first, in order of definition."""
    names: dict[str, None] = {}
    for base in cls.__mro__:
        if base is not object and not issubclass(base, BaseException):
            names |= {n: None for n in vars(base) if not n.startswith("_")}
    names = {n: None for n in names if n not in INTERNAL.get(cls.__name__, ())}
    return [n for n in names if (inspect.getattr_static(cls, n).__doc__ or "").strip()]


def _function(heading: str, name: str, function: Callable[..., Any]) -> list[str]:
    doc = inspect.getdoc(function) or ""
    first, _, rest = doc.partition("\n")
    if first.startswith(
        f"{name.rpartition('.')[2]}("
    ):  # compiled: the docstring starts with the signature
        doc = rest.strip()
    return [heading, "", *_signature(name.rpartition(".")[2], function), _markdown(doc), ""]


def _signature(name: str, function: Callable[..., Any]) -> list[str]:
    try:
        parameters = [
            p.replace(annotation=inspect.Parameter.empty)
            for p in inspect.signature(function).parameters.values()
            if p.name not in ("self", "cls")
        ]
        text = name + str(inspect.Signature(parameters))
    except (TypeError, ValueError):  # compiled: the docstring starts with the signature
        first = (inspect.getdoc(function) or "").partition("\n")[0]
        if "(" not in first:
            return []
        text = name + "(" + re.sub(r"^self(, )?", "", first.partition("(")[2])
        text = re.sub(r": [^=,()]+?(?=( =|, |\)))", "", text.partition(" -> ")[0]).replace(
            " = ", "="
        )
    return ["```python", *textwrap.wrap(text, 96, subsequent_indent="    "), "```", ""]


def _one_paragraph(doc: str | None) -> str:
    lines = (doc or "").strip().splitlines()
    if lines and re.match(r"\(self.*\) ->", lines[0]):
        lines = lines[1:]
    return " ".join(" ".join(lines).split()).replace("``", "`")


def _markdown(doc: str) -> str:
    """A docstring with sections of the kind NumPy uses, as Markdown."""
    lines, result, in_list = doc.replace("``", "`").splitlines(), [], False
    i = 0
    while i < len(lines):
        line = lines[i]
        if i + 1 < len(lines) and line and re.fullmatch(r"-{3,}", lines[i + 1].strip()):
            result += ["", f"**{line.strip()}**", ""]
            in_list = line.strip() not in ("Notes",)
            i += 2
            continue
        if line.startswith(">>>"):
            block = []
            while i < len(lines) and lines[i].strip():
                block.append(lines[i])
                i += 1
            result += ["", "```pycon", *block, "```", ""]
            continue
        if in_list and line and not line.startswith(" "):
            following = lines[i + 1] if i + 1 < len(lines) else ""
            if following.startswith("    "):
                result.append(
                    f"- `{line.strip()}`: "
                    if " " not in line.replace(", ", "")
                    else f"- {line.strip()}: "
                )
                i += 1
                while i < len(lines) and lines[i].startswith("    "):
                    result[-1] += lines[i].strip() + " "
                    i += 1
                result[-1] = result[-1].rstrip()
                continue
            in_list = False
            result.append("")
        if re.match(r"\w+: ", line) and not in_list:  # "name: what it is" of compiled classes
            if result and result[-1] and not result[-1].startswith("- "):
                result.append("")
            line = re.sub(r"^(\w+): ", r"- `\1`: ", line)
        elif result and result[-1].startswith("- ") and line and not line.startswith(" "):
            result.append("")
        result.append(line.rstrip())
        i += 1
    return "\n".join(result)
