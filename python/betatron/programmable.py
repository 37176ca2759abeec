"""Elements that are code of the user: functions of Python, and compiled ones inside the fused pass.

>>> import betatron as bt
>>> def kick(beam, state):
...     beam.px[:] -= state.settings[0] * beam.x
>>> lens = bt.Programmable(push=kick, settings=[0.5], name="lens")
>>> beam = bt.Beam.from_arrays(bt.Reference("electron", kinetic_energy=1e8), x=[1e-3], px=[0.0],
...                            y=[0.0], py=[0.0], t=[0.0], pt=[0.0])
>>> track = bt.Line([lens]).track(beam)
>>> float(beam.px[0])
-0.0005
"""

from __future__ import annotations

import copy
import ctypes
import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from betatron import _core
from betatron._checks import number

if TYPE_CHECKING:
    from betatron.beam import Beam, Reference

CODE = ("push", "inverse", "reference", "push_single", "pull", "pull_single", "differences", "cost")
"""Arguments of `Programmable` that are not parameters of the kind."""

Push = Callable[["Beam", _core.State], Any]


def c_signature(precision: str = "double", what: str = "push") -> Any:
    """The signature of a C function that `Programmable` takes, for ``numba.cfunc``.

    Parameters
    ----------
    precision
        "double" or "single": of the columns.
    what
        "push" or "pull".

    ``push(n, x, px, y, py, t, pt, weight, id, lost, place, settings)`` takes n particles through a
    slice, in place. ``pull(n, x, px, y, py, t, pt, weight, id, lx, lpx, ly, lpy, lt, lpt, place,
    settings)`` is its vector-Jacobian product. Both get the 16 numbers ``place``: turn, element,
    slice, slices, length [m]; s [m], c t [m], gamma, beta gamma of the reference particle at the
    entrance, and the same four at the exit; rest energy [eV] and charge [e] of the species; the
    number of settings.

    Raises
    ------
    ImportError
        Without Numba.
    ValueError
        For other words.
    """
    if precision not in ("double", "single"):
        raise ValueError(f"precision = {precision!r} must be 'double' or 'single'")
    if what not in ("push", "pull"):
        raise ValueError(f"what = {what!r} must be 'push' or 'pull'")
    from numba import types

    column = types.CPointer(types.float64 if precision == "double" else types.float32)
    numbers = types.CPointer(types.float64)
    last = [types.CPointer(types.uint8)] if what == "push" else [column] * 6
    return types.void(
        types.int64, *[column] * 7, types.CPointer(types.uint64), *last, numbers, numbers
    )


class Programmable(_core.Programmable):
    """An element whose effect is code of the user.

    Parameters
    ----------
    length
        path length of the reference orbit [m]
    settings
        numbers that the code is given with every call; they may be changed at any time
    push
        What happens to particles. A function ``push(beam, state)`` of Python is called once per
        slice with the whole beam, whose columns it changes in place; see `State` for what it is
        told. Or a compiled function (of ``numba.cfunc``, ctypes, or the address of a C function as
        an int), which is called inside the fused pass, by several threads, without Python: see
        `c_signature`. None: as a drift.
    inverse
        ``inverse(beam, state)``: undoes push, for backward tracking.
    reference
        ``reference(ref, piece) -> Reference``: the reference particle at the end of a piece of the
        element, from that at its start. ``piece.length`` is the path length [m], ``piece.start``
        and ``piece.end`` its ends as fractions of the element; start > end: backwards. It may be
        called any number of times and must always do the same. None: straight ahead.
    push_single, pull, pull_single
        Compiled functions: push in single precision (without it, particles are converted), and the
        vector-Jacobian products, which derivatives need.
    differences
        Six steps of x, px, y, py, t, pt: without pull, linear maps are found from compiled
        functions by central differences with these steps, if they are given.
    cost
        Time per particle of a compiled function, about [ns]: how much work is worth a thread.
    **common
        name, slices, dx, ...: as for all elements.

    Each of the functions may also be a text ``"module:function"``, which is imported. Only then has
    the element a dictionary form.

    Raises
    ------
    TypeError, ValueError
        For what is no function or does not go together, and for compiled functions of Numba with
        another signature; the message says what is expected.
    """

    __slots__ = ("_code",)

    def __init__(
        self,
        length: float = 0.0,
        settings: Sequence[float] = (),
        *,
        push: Push | str | int | Any | None = None,
        inverse: Push | str | None = None,
        reference: Callable[[Reference, _core.ReferencePiece], Reference] | str | None = None,
        push_single: str | int | Any | None = None,
        pull: str | int | Any | None = None,
        pull_single: str | int | Any | None = None,
        differences: Sequence[float] | None = None,
        cost: float | None = None,
        **common: Any,
    ) -> None:
        given = {
            "push": push,
            "inverse": inverse,
            "reference": reference,
            "push_single": push_single,
            "pull": pull,
            "pull_single": pull_single,
            "differences": None if differences is None else _steps(differences),
            "cost": None if cost is None else number(cost, "Programmable: cost"),
        }
        self._code = {name: value for name, value in given.items() if value is not None}
        where = f"Programmable {common['name']!r}" if "name" in common else "Programmable"
        functions = {
            name: _resolve(value, f"{where}: {name}")
            for name, value in self._code.items()
            if name not in ("differences", "cost")
        }
        arguments: dict[str, Any] = {"made_as": type(self).__name__}
        if "reference" in functions:
            arguments["reference"] = _callable(functions.pop("reference"), f"{where}: reference")
        code = functions.get("push")
        if isinstance(code, _core.TileCode):
            _refuse(self._code, set(CODE) - {"push", "reference"}, where, "TileCode")
            arguments["code"] = code
        elif _address(code) is not None:
            _refuse(self._code, {"inverse"}, where, "a compiled function")
            arguments["code"] = _tile_code(functions, self._code, where)
        else:
            _refuse(
                self._code, set(CODE) - {"push", "inverse", "reference"}, where, "no compiled push"
            )
            if "inverse" in functions and code is None:
                raise TypeError(f"{where}: inverse needs a push")
            for name, function in functions.items():
                arguments[name] = _callable(function, f"{where}: {name}")
        try:
            super().__init__(length, settings, **arguments, **common)
        except TypeError as error:
            error.add_note(f"code is given as {', '.join(CODE)}")
            raise

    @property
    def push(self) -> Any:
        """What was given as push."""
        return self._code.get("push")

    @property
    def reference(self) -> Any:
        """What was given as reference."""
        return self._code.get("reference")

    @property
    def inverse(self) -> Any:
        """What was given as inverse."""
        return self._code.get("inverse")

    def copy(self) -> Programmable:
        """An element of its own with the same code and parameters."""
        return _made_again(type(self), self._code, _plain(super().to_dict()), {})

    def __copy__(self) -> Programmable:
        own = getattr(self, "__dict__", {})
        return _made_again(type(self), self._code, _plain(super().to_dict()), own)

    def __deepcopy__(self, memo: dict[int, Any]) -> Programmable:
        code = {k: v if _is_fixed(v) else copy.deepcopy(v, memo) for k, v in self._code.items()}
        own = copy.deepcopy(getattr(self, "__dict__", {}), memo)
        return _made_again(type(self), code, _plain(super().to_dict()), own)

    def __reduce__(self) -> tuple[Any, ...]:
        for name, value in self._code.items():
            if _is_fixed(value):
                label = f"Programmable {self.name!r}" if self.name else "Programmable"
                raise TypeError(
                    f"{label}: {name} is compiled code in the memory of this process, which cannot "
                    'be pickled; give it as text, "module:function"'
                )
        own = getattr(self, "__dict__", {})
        return _made_again, (type(self), self._code, _plain(super().to_dict()), own)

    def to_dict(self) -> dict[str, Any]:
        """The element as a dictionary of plain values.

        Raises
        ------
        TypeError
            If its code was given as a function: only "module:function" can be written down.
        """
        for name, value in self._code.items():
            if name not in ("differences", "cost") and not isinstance(value, str):
                label = f"Programmable {self.name!r}" if self.name else "Programmable"
                raise TypeError(
                    f"{label}: {name} is code, which cannot be written to a dictionary or file; "
                    'give it as text, "module:function"'
                )
        return {**super().to_dict(), **self._code}

    def __repr__(self) -> str:
        values = _plain(super().to_dict())
        shown = [f"{name}={value!r}" for name, value in values.items()]
        shown += [f"{name}={_label(value)}" for name, value in self._code.items()]
        return f"Programmable({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Programmable) and super().__eq__(other) and self._code == other._code
        )

    __hash__ = _core.Programmable.__hash__


class OneSlice(Programmable):
    """Code for the whole length of an element, which is never cut."""

    __slots__ = ()

    @property
    def slices(self) -> int:
        """1: it is tracked as a whole."""
        return 1

    @slices.setter
    def slices(self, value: int) -> None:
        if value != 1:
            raise ValueError(
                f"{type(self).__name__} {self.name!r}: slices = {value!r} is not allowed; allowed: "
                "1, as it is tracked as a whole"
            )


def _made_again(
    kind: type[Programmable], code: dict[str, Any], plain: dict[str, Any], own: dict[str, Any]
) -> Programmable:
    """An element of its own from what makes one, whatever the constructor of its class takes."""
    made = kind.__new__(kind)
    Programmable.__init__(made, **code, **plain)
    if own:
        made.__dict__.update(own)
    return made


def _is_fixed(value: Any) -> bool:
    """Whether it is compiled code, which only this process has."""
    return isinstance(value, _core.TileCode) or _address(value) is not None


def _steps(given: Any) -> list[float]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"Programmable: differences must be six numbers, got {given!r}")
    return [number(h, f"Programmable: differences[{i}]") for i, h in enumerate(given)]


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "kind"}


def _label(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    return name if isinstance(name, str) else repr(value)


def _refuse(given: dict[str, Any], names: set[str], where: str, reason: str) -> None:
    for name in CODE:
        if name in names and name in given:
            raise TypeError(f"{where}: {name} cannot be given with {reason}")


def _callable(function: Any, where: str) -> Any:
    if not callable(function):
        raise TypeError(f"{where} must be a function, got {function!r}")
    return function


def _resolve(value: Any, where: str) -> Any:
    """The function that a text names, or the value itself."""
    if not isinstance(value, str):
        return value
    module, colon, path = value.partition(":")
    if not colon or not module or not path:
        raise ValueError(f'{where} = {value!r} must have the form "module:function"')
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{where} = {value!r} cannot be imported: {error}") from error
    return found


def _address(function: Any) -> int | None:
    """The address of a compiled function; None for others."""
    if isinstance(function, bool):
        return None
    if isinstance(function, int):
        return function
    if isinstance(function, ctypes._CFuncPtr):
        return ctypes.cast(function, ctypes.c_void_p).value or 0
    address = getattr(function, "address", None)
    return address if isinstance(address, int) and not isinstance(address, bool) else None


def _tile_code(functions: dict[str, Any], given: dict[str, Any], where: str) -> _core.TileCode:
    addresses: dict[str, int | None] = dict.fromkeys(("push", "push_single", "pull", "pull_single"))
    for name, function in functions.items():
        address = _address(function)
        if address is None or address <= 0:
            raise TypeError(f"{where}: {name} must be a compiled function, got {function!r}")
        signature = getattr(function, "_sig", None)
        if signature is not None:
            precision = "single" if name.endswith("_single") else "double"
            expected = c_signature(precision, name.removesuffix("_single"))
            if signature != expected:
                raise TypeError(
                    f"{where}: {name} has the signature {signature}; it must be "
                    f'c_signature("{precision}", "{name.removesuffix("_single")}"): {expected}'
                )
        addresses[name] = address
    steps = given.get("differences", [0.0] * 6)
    if len(steps) != 6:
        raise ValueError(f"{where}: differences must be six numbers, got {steps}")
    if "differences" in given and not all(0 < h < float("inf") for h in steps):
        raise ValueError(f"{where}: differences = {steps} is not allowed; allowed: > 0")
    cost = given.get("cost", 10.0)
    if not 0 < cost < float("inf"):
        raise ValueError(f"{where}: cost = {cost} ns is not allowed; allowed: > 0")
    return _core.TileCode.from_c(
        _label(functions["push"]),
        addresses["push"],
        addresses["push_single"],
        addresses["pull"],
        addresses["pull_single"],
        steps,
        cost,
        tuple(functions.values()),
    )
