"""Networks: Betatron beside PyTorch (eager and compiled) and onnxruntime, in one run on one pinned
core.

    python benchmarks/surrogate.py                # everything; some minutes
    python benchmarks/surrogate.py --no-peers     # Betatron alone
    python benchmarks/surrogate.py --quick        # small, few particles: does it work?

Fully connected networks with 6 inputs, 6 outputs and ReLU: 5 layers of 900, 3 of 700, 3 of 32, and
3 of 64 (about 17 thousand operations, the size of a structured plasma stage); weights in single
precision, and in bfloat16.

1. Time per particle for 10^4 and 10^3 particles, for each code; the share of what the core can do
at all
   (multiply-adds on registers, products of tiles; machine/peak.cpp).
2. The vector-Jacobian product, over one evaluation.
3. The generated C++ header, compiled here.

Every code gets the layout it likes: Betatron columns, the others one row per particle. Times are
those that the processor spent on the one thread, the least of some repetitions. Tables are
printed, and everything is written as JSON to benchmarks/results/surrogate.json. Exit status: 0 if
all targets that could be measured are reached, 1 if not. With --quick they are not judged.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common  # before everything that computes: it pins the process to one core
from common import Effort, Report, Target, console
from rich.table import Table

# isort: split
import itertools

import numpy as np
from betatron.surrogate import Layer, Network

HERE = Path(__file__).resolve().parent
NETWORKS = {"5 x 900": (900,) * 5, "3 x 700": (700,) * 3, "3 x 64": (64,) * 3, "3 x 32": (32,) * 3}
FORMATS = {"float32": "single", "bfloat16": "bf16"}
STRUCTURED = 300.0  # ns per particle, of the 17 kFLOP network


@dataclass(frozen=True)
class Plan:
    networks: dict[str, tuple[int, ...]]
    particles: tuple[int, ...]
    effort: Effort
    judged: bool


FULL = Plan(NETWORKS, (10_000, 1_000), Effort(budget=0.8, burst=0.2), True)
QUICK = Plan({"2 x 16": (16,) * 2}, (100,), Effort(budget=0.0, repetitions=2), False)


@dataclass
class Call:
    """One evaluation."""

    track: Callable[[], Any]

    def reset(self) -> None:
        """Nothing changes."""


def network_of(units: tuple[int, ...]) -> Network:
    r = np.random.default_rng(1)
    widths = [6, *units, 6]
    layers = []
    for k, (a, b) in enumerate(itertools.pairwise(widths)):
        w = (r.normal(size=(b, a)) * np.sqrt(2 / a)).astype(np.float32)
        activation = "relu" if k < len(units) else "identity"
        layers.append(Layer(w, np.float32(0.1) * r.normal(size=b).astype(np.float32), activation))
    return Network(layers)


def peaks() -> tuple[float, float] | None:
    """GFLOP/s of multiply-adds in single precision and of tiles in bfloat16 (0: there are none)."""
    compiler = shutil.which("c++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        source = HERE / "machine" / "peak.cpp"
        command = [compiler, "-std=c++17", "-O2", "-march=native", "-ffp-contract=fast"]
        subprocess.run([*command, "-Wno-psabi", str(source), "-o", str(program)], check=True)
        done = subprocess.run([str(program)], check=True, capture_output=True, text=True)
    fma, tiles = map(float, done.stdout.split())
    return fma, tiles


def generated(
    net: Network, folder: Path
) -> Callable[[np.ndarray, np.ndarray], Callable[[], Any]] | None:
    """The compiled header, to be given columns in and out; None without a compiler."""
    compiler = shutil.which("c++")
    if compiler is None:
        return None
    folder.mkdir()
    files = net.to_header(folder / "net.h", weights="separate")
    source = folder / "net.cpp"
    source.write_text(
        f"""#include "net.h"
extern "C" int run(const float* const* in, float* const* out, long n) {{
  static net::workspace memory;
  static net::parameters numbers;
  static const bool loaded = net::load(numbers, "{files[1]}");
  if (!loaded) return 1;
  net::run(in, out, static_cast<std::size_t>(n), memory, numbers);
  return 0;
}}
"""
    )
    library = folder / "net.so"
    flags = ["-std=c++17", "-O3", "-march=native", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
    code = ctypes.CDLL(str(library))
    pointers = ctypes.POINTER(ctypes.c_float) * 6

    def columns(a: np.ndarray) -> Any:
        return pointers(*(row.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for row in a))

    def on(x: np.ndarray, out: np.ndarray) -> Callable[[], Any]:
        arguments = columns(x), columns(out), ctypes.c_long(x.shape[1])
        if code.run(*arguments):
            raise RuntimeError("the generated code could not read its weights")
        return lambda: code.run(*arguments)

    return on


def own_calls(
    net: Network, x: np.ndarray, out: np.ndarray, bar: np.ndarray, format: str
) -> dict[str, Call]:
    return {
        "Betatron": Call(lambda: net(x, out=out, format=format, threads=1)),
        "Betatron, vjp": Call(lambda: net.vjp(x, x, out=bar, format=format, threads=1)),
    }


def torch_calls(net: Network, x: np.ndarray, format: str, compile_too: bool) -> dict[str, Call]:
    import torch

    torch.set_num_threads(1)
    modules: list[Any] = []
    for layer in net.layers:
        linear = torch.nn.Linear(layer.weights.shape[1], layer.weights.shape[0])
        linear.weight.data = torch.tensor(layer.weights, dtype=torch.float32)
        linear.bias.data = torch.tensor(layer.bias, dtype=torch.float32)
        modules += [linear, torch.nn.ReLU()]
    module = torch.nn.Sequential(*modules[:-1]).eval().requires_grad_(False)
    rows = torch.tensor(x.T.copy())
    if format == "bfloat16":
        module, rows = module.bfloat16(), rows.bfloat16()

    def call(f: Any) -> Call:
        def run() -> Any:
            with torch.inference_mode():
                return f(rows)

        return Call(run)

    calls = {"PyTorch": call(module)}
    if compile_too:
        torch._dynamo.reset()
        calls["PyTorch, compiled"] = call(torch.compile(module))
    for c in calls.values():
        c.track()
    return calls


def onnx_calls(net: Network, x: np.ndarray) -> dict[str, Call]:
    import onnx
    import onnxruntime

    h = onnx.helper
    nodes, constants, last = [], [], "x"
    for k, layer in enumerate(net.layers):
        for name, value in (("w", layer.weights), ("b", layer.bias)):
            constants.append(onnx.numpy_helper.from_array(value.astype(np.float32), f"{name}{k}"))
        out = "y" if k + 1 == len(net.layers) else f"z{k}"
        nodes.append(h.make_node("Gemm", [last, f"w{k}", f"b{k}"], [out], transB=1))
        last = f"a{k}"
        if out != "y":
            nodes.append(h.make_node("Relu", [out], [last]))
    shape = [h.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 6]) for n in "xy"]
    graph = h.make_graph(nodes, "net", shape[:1], shape[1:], constants)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rows = np.ascontiguousarray(x.T)
    return {"onnxruntime": Call(lambda: session.run(None, {"x": rows}))}


def installed() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in ("torch", "onnxruntime", "onnx"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def run(plan: Plan, with_peers: bool, compile_too: bool, folder: Path) -> Report:
    peers = installed() if with_peers else {}
    report = Report("surrogate", {"judged": plan.judged}, peers)
    rates = peaks()
    if rates is None:
        report.note("no C++ compiler: neither the peak of the core nor generated code are measured")
    else:
        report.settings["peak_GFLOPs"] = {"float32": rates[0], "bfloat16 tiles": rates[1]}
        console.print(
            f"this core: {rates[0]:.0f} GFLOP/s multiply-adds, {rates[1]:.0f} GFLOP/s tiles of "
            "bfloat16"
        )
    table = Table(
        "network", "format", "particles", "code", "ns/particle", "GFLOP/s", "share", "time ratio"
    )
    worst: dict[str, float] = {}
    for name, units in plan.networks.items():
        net = network_of(units)
        header = generated(net, folder / name.replace(" ", ""))
        for n in plan.particles:
            x = np.random.default_rng(2).normal(size=(6, n)).astype(np.float32)
            out, bar = np.empty_like(x), np.empty_like(x)
            for format in FORMATS:
                calls = own_calls(net, x, out, bar, format)
                if header and format == "float32":
                    calls["generated header"] = Call(header(x, out))
                if "torch" in peers:
                    calls |= torch_calls(net, x, format, compile_too)
                if "onnxruntime" in peers and "onnx" in peers and format == "float32":
                    calls |= onnx_calls(net, x)
                timings = common.measure(calls, plan.effort)
                own = timings["Betatron"].processor
                peak = rates and (rates[1] if format == "bfloat16" and rates[1] else rates[0])
                others = []
                for code, timing in timings.items():
                    rate = net.operations * n / timing.processor * 1e-9
                    share = f"{100 * rate / peak:.0f} %" if peak and "vjp" not in code else ""
                    if "Betatron" not in code and "header" not in code:
                        others.append(timing.processor)
                    table.add_row(
                        name,
                        format,
                        f"{n}",
                        code,
                        f"{timing.processor / n * 1e9:.1f}",
                        f"{rate:.0f}",
                        share,
                        f"{timing.processor / own:.2f}",
                    )
                    report.measurements.append(
                        {
                            "network": name,
                            "format": format,
                            "particles": n,
                            "code": code,
                            "seconds": timing.processor,
                            "elapsed_seconds": timing.best,
                            "repetitions": timing.repetitions,
                            "ns_per_particle": timing.processor / n * 1e9,
                            "GFLOPs": rate,
                        }
                    )
                key = f"{name}, {FORMATS[format]}"
                if others:
                    worst[key] = min(worst.get(key, np.inf), min(others) / own)
                gradient = timings["Betatron, vjp"].processor / own
                report.targets.append(
                    Target(f"vjp, {key}, {n} particles", 3.0, False, "evaluations", gradient)
                )
                if "generated header" in timings:
                    ratio = own / timings["generated header"].processor
                    report.targets.append(
                        Target(f"header, {name}, {n} particles", 0.9, True, "of the engine", ratio)
                    )
                if name == "3 x 64":
                    report.targets.append(
                        Target(
                            f"time, {key}, {n} particles", STRUCTURED, False, "ns", own / n * 1e9
                        )
                    )
    for name in plan.networks:
        for word in FORMATS.values():
            report.targets.append(
                Target(
                    f"fastest other code, {name}, {word}",
                    1.0,
                    True,
                    "of our time",
                    worst.get(f"{name}, {word}"),
                )
            )
    console.print(table)
    if plan.judged:
        console.print(common.targets_table(report.targets))
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small network, few particles")
    parser.add_argument("--no-peers", action="store_true", help="Betatron alone")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="only these")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "surrogate.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    common.print_machine()
    plan = QUICK if arguments.quick else FULL
    if arguments.network and not arguments.quick:
        chosen = {k: NETWORKS[k] for k in arguments.network}
        plan = Plan(chosen, plan.particles, plan.effort, plan.judged)
    with tempfile.TemporaryDirectory() as folder:
        report = run(plan, not arguments.no_peers, not arguments.no_compile, Path(folder))
    report.write(arguments.output)
    console.print(f"written to {arguments.output}")
    return 1 if plan.judged and any(t.ok is False for t in report.targets) else 0


if __name__ == "__main__":
    sys.exit(main())
