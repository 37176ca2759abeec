"""Wakefields against closed forms, impedances and direct sums over particles."""

import copy
import pickle

import betatron as bt
import numpy as np
import pytest
from scipy.integrate import quad

C = 299792458.0


def reference(energy=1e9, species="electron"):
    return bt.Reference(species, kinetic_energy=energy)


def particles(ref, n, charge, seed=3, precision="double", t_size=1e-3):
    rng = np.random.default_rng(seed)
    kind = np.float64 if precision == "double" else np.float32
    columns = {k: rng.normal(0, 1e-4, n).astype(kind) for k in ("x", "px", "y", "py", "pt")}
    t = rng.normal(0, t_size, n).astype(kind)
    return bt.Beam.from_arrays(ref, t=t, charge=charge, **columns)


def gaussian(ref, sigma, charge, nodes=8001):
    """A line of particles with Gaussian weights: a smooth bunch."""
    t = np.linspace(-6 * sigma, 6 * sigma, nodes)
    zero = np.zeros(nodes)
    return bt.Beam.from_arrays(
        ref,
        x=zero,
        px=zero,
        y=zero,
        py=zero,
        t=t,
        pt=zero,
        weight=np.exp(-0.5 * (t / sigma) ** 2),
        charge=charge,
    )


def energy(beam):
    """Sum of the energies of all particles relative to the reference [J]."""
    ref = beam.reference
    weight = np.asarray(beam.weight, dtype=np.float64)
    pt = np.asarray(beam.pt, dtype=np.float64)
    return -np.sum(weight * pt) * ref.momentum * 1.602176634e-19


@pytest.mark.parametrize("quality", [0.3, 0.5, 1.0, 30.0])
@pytest.mark.parametrize("size", [0.2, 1.0, 2.0])
def test_loss_factor_of_a_resonator_is_the_integral_of_its_impedance(quality, size):
    sigma, shunt = 1e-3, 1e4
    omega = size * C / sigma
    beam = gaussian(reference(), sigma, 1e-9)
    loss = bt.Resonator(shunt, quality, omega / (2 * np.pi)).loss_factor(beam, bins=800)

    def spectrum(u):
        z = shunt / (1 + 1j * quality * (1 / u - u))
        return z.real * np.exp(-((u * omega * sigma / C) ** 2)) * omega / np.pi

    exact = quad(spectrum, 1e-9, 1, limit=400)[0] + quad(spectrum, 1, 40, limit=400)[0]
    assert loss == pytest.approx(exact, rel=3e-4)


@pytest.mark.parametrize("kind", ["dipole_x", "quadrupole_y", "longitudinal"])
def test_resonator_wake_is_the_transform_of_its_impedance(kind):
    shunt, quality, frequency = 3e5, 2.0, 1e9
    wake = bt.Resonator(shunt, quality, frequency, kind)
    omega = 2 * np.pi * frequency
    for t in (0.03, 0.2, 0.5):

        def spectrum(w, t=t):
            z = shunt / (1 + 1j * quality * (omega / w - w / omega))
            if kind == "longitudinal":
                return z.real * np.cos(w * t / C)
            return (omega / w * z).real * np.sin(w * t / C)

        value = sum(quad(spectrum, a * omega, (a + 1) * omega, limit=500)[0] for a in range(0, 300))
        assert wake(t) == pytest.approx(2 / np.pi * value, rel=2e-2, abs=1e-3 * abs(wake(0.01)))


def test_resistive_wall_starts_and_decays_as_known():
    radius, conductivity = 5e-3, 5.9e7
    wall = bt.ResistiveWall(radius, conductivity)
    z0 = 376.730313668
    start = z0 * C / (np.pi * radius**2)
    assert wall(0.0, "longitudinal") == pytest.approx(start, rel=1e-9)
    # Panofsky-Wenzel for a round pipe: W_dipole' = 2 W/a^2
    assert wall(1e-12, "dipole_x") == pytest.approx(2 / radius**2 * start * 1e-12, rel=1e-4)
    # Chao, eq. 2.53 and 2.57
    far = 0.5
    assert wall(far, "dipole_y") == pytest.approx(
        C / (np.pi * radius**3) * np.sqrt(z0 / (np.pi * conductivity * far)), rel=1e-4
    )
    assert wall(far, "longitudinal") == pytest.approx(
        -C / (4 * np.pi * radius) * np.sqrt(z0 / (np.pi * conductivity)) * far**-1.5, rel=1e-4
    )
    assert wall.per_metre and wall.kinds == ["longitudinal", "dipole_x", "dipole_y"]


@pytest.mark.parametrize("gamma", [1e-6, 1e-3, 0.1, 1.0, 7.0, 300.0])
def test_conductivity_with_relaxation_has_its_impedance(gamma):
    """The Laplace transform of the wake is the impedance, Z0 s0/(pi a^2)/(p + 2 sqrt(2)/sqrt(p (1 +
    gamma p))), and the dipole wake is its integral."""
    quad = pytest.importorskip("scipy.integrate").quad
    radius, conductivity, z0 = 5e-3, 5.9e7, 376.730313668
    s0 = (2 * radius**2 / (z0 * conductivity)) ** (1 / 3)
    wall = bt.ResistiveWall(radius, conductivity, relaxation_time=gamma * s0 / C)
    start = z0 * C / (np.pi * radius**2)
    assert wall(0.0, "longitudinal") == pytest.approx(start, rel=2e-9)
    for p in (0.4, 2.0):
        found = quad(
            lambda xi, p=p: wall(xi * s0, "longitudinal") / start * np.exp(-p * xi),
            0, 40 / p, epsabs=1e-10, epsrel=1e-10, limit=1000,
        )[0]  # fmt: skip
        impedance = 1 / (p + 2 * np.sqrt(2) / np.sqrt(p * (1 + gamma * p)))
        assert found == pytest.approx(impedance, rel=1e-7)
    for low, high in ((0.0, 1e-9), (0.0, 1.0), (1.0, 3.0)):
        integral = quad(lambda xi: wall(xi * s0, "longitudinal") * s0, low, high, epsrel=1e-10)[0]
        rise = wall(high * s0, "dipole_x") - wall(low * s0, "dipole_x")
        assert rise == pytest.approx(2 / radius**2 * integral, rel=1e-8)


def test_relaxation_does_not_matter_far_away_and_not_when_short():
    radius, conductivity = 5e-3, 5.9e7
    direct = bt.ResistiveWall(radius, conductivity)
    for tau, distances, rel in ((2.7e-14, (0.01, 1.0, 1e3), 1e-2), (1e-22, (0, 1e-6, 1e-4), 1e-6)):
        wall = bt.ResistiveWall(radius, conductivity, relaxation_time=tau)
        for s in distances:
            for kind in ("longitudinal", "dipole_y"):
                assert wall(s, kind) == pytest.approx(direct(s, kind), rel=rel)
    flat = bt.ResistiveWall(radius, conductivity, "flat", relaxation_time=2.7e-14)
    wall = bt.ResistiveWall(radius, conductivity, relaxation_time=2.7e-14)
    assert flat(1e-5, "dipole_y") == pytest.approx(
        np.pi**2 / 12 * wall(1e-5, "dipole_y"), rel=1e-12
    )


def test_flat_pipe_has_the_form_factors_of_yokoya():
    flat, round_pipe = bt.ResistiveWall(1e-2, 1e6, "flat"), bt.ResistiveWall(1e-2, 1e6)
    dipole = round_pipe(1.0, "dipole_x")
    for kind, factor in {
        "dipole_x": np.pi**2 / 24,
        "dipole_y": np.pi**2 / 12,
        "quadrupole_x": -(np.pi**2) / 24,
        "quadrupole_y": np.pi**2 / 24,
    }.items():
        assert flat(1.0, kind) == pytest.approx(factor * dipole, rel=1e-12)


def test_structure_wake_of_the_slac_linac():
    # a = 11.6 mm, g = 29.2 mm, p = 35 mm; Bane: W(0) = Z0 c/(pi a^2), W_dipole'(0) = 2 W(0)/a^2
    a = 11.6e-3
    wake = bt.StructureWake(a, 29.2e-3, 35.0e-3)
    start = 376.730313668 * C / (np.pi * a**2)
    assert wake(0.0, "longitudinal") == pytest.approx(start, rel=1e-9)
    s = 1e-12
    assert wake(s, "dipole_x") == pytest.approx(2 / a**2 * start * s, rel=1e-3)
    s1 = 0.41 * a**1.8 * 29.2e-3**1.6 / 35e-3**2.4
    assert wake(s1, "longitudinal") == pytest.approx(start / np.e, rel=1e-9)


@pytest.mark.parametrize("shape", ["linear", "quadratic"])
@pytest.mark.parametrize("precision", ["double", "single"])
def test_kicks_are_those_of_a_direct_sum(shape, precision):
    ref = reference(5e8)
    cavity = bt.Marker(name="cavity")
    line = bt.Line([bt.Drift(0.1), cavity])
    table_t = np.linspace(0, 2e-2, 9)
    functions = [
        bt.Resonator(1e5, 1.0, 2e9),
        bt.Resonator(1e7, 3.0, 3e9, "dipole_x"),
        bt.WakeTable(table_t, quadrupole_y=1e15 * np.cos(200 * table_t), dipole_y=1e15 * table_t),
    ]
    beam = particles(ref, 400, 3e-9, precision=precision)
    bt.Line([bt.Drift(0.1)]).track(beam)
    before = {k: np.array(beam[k], dtype=np.float64) for k in ("x", "px", "y", "py", "t", "pt")}
    weight = np.array(beam.weight, dtype=np.float64)
    bt.Line([cavity]).track(
        beam, collective=bt.Wake(functions, at="cavity", bins=3000, shape=shape)
    )
    q = weight * 1.602176634e-19
    t = before["t"]
    later = t[:, None] - t[None, :]

    def potential(wake, kind, source):
        w = wake(later, kind)
        w[later == 0] = 0.5 * wake(0.0, kind)
        return w @ (q * source)

    one = np.ones_like(t)
    gain = -potential(functions[0], "longitudinal", one)
    kick_x = potential(functions[1], "dipole_x", before["x"])
    kick_y = before["y"] * potential(functions[2], "quadrupole_y", one) + potential(
        functions[2], "dipole_y", before["y"]
    )
    # a wake jumps by W(0+) q at every particle; where two are in one cell, the nodes see the mean
    tolerance = 2e-3
    for column, kick in (("pt", -gain), ("px", kick_x), ("py", kick_y)):
        change = np.asarray(beam[column], dtype=np.float64) - before[column]
        wanted = kick / ref.momentum
        assert np.std(change - wanted) < tolerance * np.std(wanted), column
    assert len(line) == 2


def test_energy_lost_is_the_loss_factor_times_the_square_of_the_charge():
    beam = particles(reference(), 30_000, 2e-9)
    cavity = bt.Marker(name="cavity")
    wake = bt.Resonator(1e4, 1.0, 5e9)
    loss = wake.loss_factor(beam, bins=300)
    before = energy(beam)
    bt.Line([cavity]).track(beam, collective=bt.Wake(wake, at=cavity, bins=300))
    assert before - energy(beam) == pytest.approx(loss * 4e-18, rel=1e-9)


def test_sign_of_the_charge_does_not_matter():
    kicks = []
    for species in ("electron", "positron"):
        beam = particles(reference(species=species), 1000, 1e-9)
        pt = np.array(beam.pt)
        bt.Line([bt.Marker(name="w")]).track(
            beam, collective=bt.Wake(bt.Resonator(1e5, 1.0, 1e9), at="w")
        )
        kicks.append(np.array(beam.pt) - pt)
    assert np.array_equal(*kicks)
    assert kicks[0].mean() > 0  # energy is lost


def test_wakes_per_metre_add_up_over_slices_and_go_back():
    ref = reference()
    wall = bt.ResistiveWall(3e-3, 1e6)
    beam = particles(ref, 5000, 1e-9, t_size=1e-4)
    start = beam.array.copy()
    pipe = bt.Line([bt.Marker(name="pipe")])
    pipe.track(beam, collective=bt.Wake(wall, at="pipe", length=2.0))
    lumped = beam.array - start
    other = particles(ref, 5000, 1e-9, t_size=1e-4)
    other.px[:] = 0
    other.py[:] = 0
    other.pt[:] = 0
    still = other.array.copy()
    line = bt.Line([bt.Drift(2.0, slices=4)])
    effect = bt.Wake(wall)
    line.track(other, collective=effect)
    # x, y and t hardly change in a drift at this energy
    assert np.allclose((other.array - still)[5], lumped[5], rtol=1e-6, atol=1e-9)
    line.track(other, collective=effect, backward=True)
    assert np.abs(other.array - still).max() < 1e-15


def test_resonators_remember_for_ever_and_others_for_some_turns():
    ref = reference()
    line = bt.Line([bt.Drift(30.0), bt.Marker(name="here")])
    frequency, quality, shunt = 0.5003e9, 1e4, 1e6
    resonator = bt.Resonator(shunt, quality, frequency)
    dipole = bt.Resonator(1e9, quality, 0.31e9, "dipole_x")
    table = bt.WakeTable([0, 100.0], quadrupole_x=[1e12, 0.5e12])
    zero = np.zeros(1)
    columns = dict.fromkeys(("px", "y", "py", "t", "pt"), zero)
    beam = bt.Beam.from_arrays(ref, x=zero + 1e-3, charge=1e-9, **columns)
    turns, period = 5, 30.0 / ref.beta
    effect = bt.Wake([resonator, dipole, table], at="here", memory=2)
    q = 1e-9
    pts, pxs = [], []
    for turn in range(turns):
        behind = period * np.arange(1, turn + 1)
        gain = -q * (0.5 * resonator(0.0) + resonator(behind).sum())
        kick = q * 1e-3 * dipole(behind).sum()
        kick += q * 1e-3 * (0.5 * table(0.0) + table(behind[:2]).sum())
        pts.append(-gain / ref.momentum)
        pxs.append(kick / ref.momentum)
    one_turn = bt.Line([bt.Marker(name="here"), bt.LinearMap(np.eye(6), 30.0)])
    del line
    track = one_turn.track(beam, turns=turns, collective=effect, record="here")
    seen = track.moments
    assert np.allclose(np.diff(np.append(0.0, seen["mean_pt"])), pts, rtol=1e-7)
    assert np.allclose(np.diff(np.append(0.0, seen["mean_px"])), pxs, rtol=1e-6)
    # a new run begins without fields
    again = bt.Beam.from_arrays(ref, x=zero + 1e-3, charge=1e-9, **columns)
    one_turn.track(again, turns=1, collective=effect)
    assert again.pt[0] == pytest.approx(pts[0], rel=1e-9)


@pytest.mark.parametrize("precision", ["double", "single"])
def test_results_do_not_depend_on_the_number_of_threads(precision):
    functions = [bt.ResistiveWall(3e-3, 1e6), bt.StructureWake(5e-3, 6.4e-3, 8e-3)]
    results = []
    for threads in (1, 2, 7):
        beam = particles(reference(), 100_000, 1e-9, precision=precision, t_size=1e-4)
        bt.Line([bt.Drift(1.0)]).track(beam, collective=bt.Wake(functions), threads=threads)
        results.append(beam.array.copy())
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_degenerate_beams():
    ref = reference()
    wake = bt.Wake(bt.Resonator(1e5, 1.0, 1e9), at="w")
    line = bt.Line([bt.Marker(name="w")])
    for n in (0, 1, 2):
        beam = bt.Beam.from_arrays(
            ref,
            charge=None if n == 0 else 1e-9,
            **{k: np.zeros(n) for k in ("x", "px", "y", "py", "t", "pt")},
        )
        line.track(beam, collective=wake)
        if n:  # all charge at one place feels half of W(0+)
            half = 0.5 * wake.functions[0](0.0) * 1e-9
            assert beam.pt[0] == pytest.approx(half / ref.momentum, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bt.Resonator(1.0, 0.0, 1e9), "quality = 0 is not allowed; allowed: > 0"),
        (lambda: bt.Resonator(1.0, 1.0, float("nan")), "frequency = nan"),
        (lambda: bt.Resonator(1.0, 1.0, 1e9, "octupole"), "known: longitudinal"),
        (lambda: bt.ResistiveWall(-1.0, 1e6), "radius = -1 m"),
        (lambda: bt.ResistiveWall(1.0, 1e6, "square"), "pipe = 'square'"),
        (lambda: bt.ResistiveWall(1.0, 1e6, relaxation_time=-1.0), "relaxation_time = -1 s"),
        (lambda: bt.StructureWake(1e-3, 3e-3, 2e-3), "at most the period"),
        (lambda: bt.WakeTable([0.0, 1.0]), "at least one"),
        (lambda: bt.WakeTable([0.1, 1.0], longitudinal=[1, 2]), r"t\[0\] = 0.1 m"),
        (lambda: bt.WakeTable([0, 1, 1], longitudinal=[1, 2, 3]), r"t\[2\] = 1 m"),
        (lambda: bt.WakeTable([0, 1], longitudinal=[1, np.inf]), r"longitudinal\[1\] = inf"),
        (lambda: bt.Wake(bt.Resonator(1.0, 1.0, 1e9)), "needs `at`"),
        (lambda: bt.Wake(bt.Resonator(1.0, 1.0, 1e9), at="a", length=1.0), "per metre only"),
        (lambda: bt.Wake(bt.ResistiveWall(1.0, 1e6), bins=1), "bins = 1"),
        (lambda: bt.Wake(bt.ResistiveWall(1.0, 1e6), spacing=-1), "spacing = -1 m"),
        (lambda: bt.Wake(bt.ResistiveWall(1.0, 1e6), shape="cubic"), "shape = 'cubic'"),
    ],
)
def test_wrong_parameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_unknown_places_are_named():
    with pytest.raises(KeyError, match="no element is named 'nowhere'"):
        bt.Line([bt.Drift(1.0)]).track(
            particles(reference(), 10, 1e-9),
            collective=bt.Wake(bt.ResistiveWall(1.0, 1e6), at="nowhere"),
        )
    with pytest.raises(TypeError, match="collective takes effects"):
        bt.Line([bt.Drift(1.0)]).track(particles(reference(), 10, 1e-9), collective=[3])


def test_a_wake_per_metre_needs_a_length():
    beam = bt.Beam(bt.Reference("electron", kinetic_energy=1e9), n=3, charge=1e-9)
    before = beam.array.copy()
    line = bt.Line([bt.Drift(0.1, name="d"), bt.Marker(name="m")])
    wall = bt.ResistiveWall(5e-3, 5.9e7)
    for at in ("m", ["d", "m"]):
        with pytest.raises(ValueError, match=r"Wake: .*'m'.* has no length"):
            line.track(beam, collective=bt.Wake(wall, at=at))
        assert np.array_equal(beam.array, before)
    line.track(beam, collective=bt.Wake(wall, at="m", length=0.5))
    assert np.all(beam.pt > before[5])


def test_a_structure_outside_of_its_fit_warns():
    for cell, name in (((0.2, 0.8, 1.0), "iris_radius"), ((0.5, 0.95, 1.0), "gap")):
        message = f"StructureWake: {name}/period = .* range of the fit"
        with pytest.warns(bt.OutsideDomainWarning, match=message):
            bt.StructureWake(*cell)


def in_a_structure(extent, **columns):
    """Two particles at this distance, a line with two pieces of structure, and its wake."""
    zero = np.zeros(2)
    columns = {**dict.fromkeys(("x", "px", "y", "py", "t", "pt"), zero), **columns}
    beam = bt.Beam.from_arrays(reference(), charge=1e-12, **{**columns, "t": np.array([0, extent])})
    line = bt.Line([bt.Drift(0.1, name="first"), bt.Drift(0.2, name="second", slices=2)])
    return line, beam, bt.StructureWake(5e-3, 8e-3, 10e-3)  # known up to 1.5 mm


def test_a_beam_longer_than_the_fit_reaches_warns_once():
    line, beam, wake = in_a_structure(1.6e-3)
    assert wake.reach == 1.5e-3 and bt.ResistiveWall(5e-3, 5.9e7).reach == np.inf
    message = (
        r"^Wake: in Drift 'first' the beam was 0.0016 m long .* StructureWake is a fit for "
        r"distances up to 0.0015 m$"
    )
    effect = bt.Wake([bt.ResistiveWall(5e-3, 5.9e7), wake])
    with pytest.warns(bt.OutsideDomainWarning, match=message) as caught:
        line.track(beam.copy(), collective=effect, turns=2)
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.warns(bt.OutsideDomainWarning, match=message) as caught:
        line.gradient(beam, bt.losses.energy_spread(), [("first", "length")], collective=effect)
    assert len(caught) == 1 and caught[0].filename == __file__
    for use in (wake.loss_factor, lambda b: wake.potential(b, "dipole_x")):
        with pytest.warns(bt.OutsideDomainWarning, match="the beam is 0.0016 m long"):
            use(beam)


def test_a_beam_within_the_fit_does_not_warn_and_one_that_grows_does():
    line, beam, wake = in_a_structure(1.499e-3)
    line.track(beam.copy(), collective=bt.Wake(wake))
    wake.loss_factor(beam), wake.potential(beam, "longitudinal")
    # a slow particle falls behind: the longest beam is that in the last kick
    line, beam, wake = in_a_structure(1.4e-3, pt=np.array([0, 0.3]))
    beam = bt.Beam.from_arrays(
        bt.Reference("electron", kinetic_energy=5e6),
        **{name: beam[name] for name in ("x", "px", "y", "py", "t", "pt")},
        charge=1e-15,
    )
    ends = bt.Line([*line.elements, bt.Drift(0.3, name="third", model="exact", slices=2)])
    with pytest.warns(bt.OutsideDomainWarning, match="in Drift 'third' the beam was") as caught:
        ends.track(beam, collective=bt.Wake(wake))
    assert len(caught) == 1


def test_a_fit_says_nothing_of_earlier_turns():
    wake = bt.StructureWake(5e-3, 8e-3, 10e-3)
    with pytest.raises(ValueError, match=r"memory = 2 turns .* StructureWake is a fit to short"):
        bt.Line([bt.Drift(1.0)]).track(in_a_structure(1e-3)[1], collective=bt.Wake(wake, memory=2))
    # the dipole fit does not fall: it would deflect for ever
    kicks = []
    for functions in ([bt.ResistiveWall(5e-3, 5.9e7)], [bt.ResistiveWall(5e-3, 5.9e7), wake]):
        for memory in (0, 1):
            line, beam, _ = in_a_structure(1e-3, x=np.full(2, 1e-4))
            line.track(beam, turns=2, collective=bt.Wake(functions, memory=memory))
            kicks.append(beam.px.copy())
    assert np.any(kicks[1] != kicks[0])
    assert kicks[3] - kicks[2] == pytest.approx(kicks[1] - kicks[0], rel=1e-5)


def test_a_bunch_met_along_an_element_gives_its_kick_in_parts():
    ref = bt.Reference("proton", kinetic_energy=1e9)
    kicks = []
    for line in (bt.Line([bt.Marker(name="ip")]), bt.Line([bt.Drift(1e-9, slices=4, name="ip")])):
        beam = bt.Beam.from_arrays(
            ref,
            **{n: np.array([1e-4 if n == "x" else 0.0]) for n in ("x", "px", "y", "py", "t", "pt")},
        )
        line.track(beam, collective=bt.BeamBeam("ip", 1e-9, 1e-4, 2e-4))
        kicks.append(beam.px[0])
    assert kicks[0] == pytest.approx(kicks[1], rel=1e-6) and kicks[0] != 0


@pytest.mark.parametrize("again", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_and_pickles(again) -> None:
    t = np.linspace(0.0, 1e-2, 20)
    table = bt.WakeTable(t, longitudinal=np.cos(t), per_metre=True)
    t[:] = 0.0  # the caller's array
    for wake in (
        table,
        bt.Resonator(1e6, frequency=1e9, quality=10, kind="dipole_x"),
        bt.ResistiveWall(5e-3, 5.9e7, "flat"),
        bt.StructureWake(11.6e-3, 29.2e-3, 35e-3),
    ):
        made = again(wake)
        at = np.linspace(1e-5, 8e-3, 7)
        assert type(made) is type(wake) and made.kinds == wake.kinds
        for kind in wake.kinds:
            np.testing.assert_array_equal(made(at, kind), wake(at, kind))
    effect = again(bt.Wake(table, at="m", bins=50))
    assert repr(effect) == repr(bt.Wake(table, at="m", bins=50))
