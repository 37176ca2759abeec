"""Tracking as a PyTorch function."""

import betatron as bt
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from betatron.torch import track  # noqa: E402

REF = bt.Reference("electron", kinetic_energy=100e6)
SIZE = torch.tensor([1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-2], dtype=torch.float64)[:, None]


@pytest.fixture
def line():
    return bt.Line(
        [
            bt.Quadrupole(0.2, k1=3.0, name="q"),
            bt.RFCavity(0.3, voltage=2e6, frequency=1.3e9, phase=-0.4, name="rf"),
            bt.Drift(0.5, model="exact"),
            bt.Multipole(0, knl=[0, 0.1, 30.0], name="m"),
            bt.Bend(0.5, angle=0.2),
        ]
    )


def test_gradcheck(line):
    torch.manual_seed(1)
    inputs = [torch.randn(6, 4, dtype=torch.float64), torch.tensor(3.0), torch.tensor(-0.4), torch.tensor(30.0),
              torch.tensor(1.0)]  # fmt: skip
    inputs = [i.to(torch.float64).requires_grad_() for i in inputs]

    def function(z, k1, phase, sextupole, energy):
        knobs = {("q", "k1"): k1, ("rf", "phase"): phase, ("m", "knl[2]"): sextupole}
        return track(line, z * SIZE, REF, knobs, kinetic_energy=energy * 1e8) / SIZE

    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-6)
    assert line["q"].k1 == 3.0


def test_it_is_tracking_and_copies_nothing(line):
    z = torch.randn(6, 100, dtype=torch.float64) * SIZE
    k1 = torch.tensor(2.0, requires_grad=True)
    out = track(line, z, REF, {("q", "k1"): k1})
    line["q"].k1 = 2.0
    beam = bt.Beam.from_arrays(REF, **dict(zip(bt.beam.COORDINATES, z.numpy(), strict=True)))
    line.track(beam)
    assert np.array_equal(out.detach().numpy()[0], beam.x)
    (out[0] ** 2).sum().backward()
    assert k1.grad is not None and k1.grad.dtype == torch.float32


def test_single_precision(line):
    z = (torch.randn(6, 50, dtype=torch.float64) * SIZE).requires_grad_()
    single = z.detach().to(torch.float32).requires_grad_()
    for tensor in (z, single):
        (track(line, tensor, REF)[0] * 1e3).pow(2).sum().backward()
    assert single.grad.dtype == torch.float32
    assert torch.allclose(
        z.grad.to(torch.float32), single.grad, rtol=1e-2, atol=1e-3 * float(z.grad.abs().max())
    )


def test_changes_in_place_are_noticed(line):
    z = (torch.randn(6, 5, dtype=torch.float64) * SIZE).requires_grad_()
    out = track(line, z, REF)
    loss = out.sum()
    with torch.no_grad():
        out.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_lost_particles():
    line = bt.Line([bt.Drift(0.1), bt.Aperture(1e-3, 1e-3), bt.Drift(0.1)])
    z = torch.zeros(6, 2, dtype=torch.float64)
    z[0, 1] = 2e-3
    z.requires_grad_()
    out = track(line, z, REF, mark_lost=True)
    assert torch.isnan(out[:, 1]).all() and torch.isfinite(out[:, 0]).all()
    torch.nansum(out).backward()
    assert not z.grad[:, 1].any() and z.grad[:, 0].any()


@pytest.mark.parametrize(
    ("z", "error"),
    [
        (np.zeros((6, 2)), TypeError),
        (torch.zeros(6, 2, dtype=torch.int32), TypeError),
        (torch.zeros(2, 6), ValueError),
    ],
)
def test_wrong_tensors(line, z, error):
    with pytest.raises(error, match="track: z must"):
        track(line, z, REF)


def test_wrong_parameters(line):
    z = torch.zeros(6, 2)
    with pytest.raises(ValueError, match="names 3 numbers"):
        track(line, z, REF, {("m", "knl"): torch.tensor(1.0)})
    with pytest.raises(TypeError, match="tensor of one number"):
        track(line, z, REF, {("q", "k1"): 1.0})


def test_wrong_arguments_are_refused_before_tracking(line):
    z = torch.zeros(6, 3, dtype=torch.float64)
    k1 = torch.tensor(3.0, dtype=torch.float64)
    name = line[0].name
    with pytest.raises(ValueError, match="two of the parameters are the same number"):
        track(line, z, REF, {(name, "k1"): k1, (line[0], "k1"): k1})
    for given, error, text in (
        ({"strategy": "forward"}, ValueError, "no reverse pass"),
        ({"strategy": "fast"}, ValueError, "must be one of"),
        ({"tolerance": -1}, ValueError, "tolerance = -1"),
        ({"threads": -1}, ValueError, "threads = -1"),
        ({"kinetic_energy": 1e8}, TypeError, "tensor of one number"),
    ):
        with pytest.raises(error, match=text):
            track(line, z, REF, **given)
    with pytest.raises(TypeError, match=r"betatron\.Line, got list"):
        track([bt.Drift(1.0)], z, REF)
    with pytest.raises(TypeError, match=r"betatron\.Reference"):
        track(line, z, "electron")


def test_the_reference_stays_where_it_is_with_an_energy_of_its_own():
    late = bt.Reference("electron", kinetic_energy=20e6, t=0.05, s=3.0)
    cavity = bt.RFFieldMap(0.2, amplitude=20e6, frequency=1.3e9, phase=0.3, cosine=[1, 0.4])
    line = bt.Line([bt.Drift(0.1), cavity])
    z = 1e-4 * torch.rand(6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    energy = torch.tensor(20e6, dtype=torch.float64)
    assert torch.equal(track(line, z, late), track(line, z, late, kinetic_energy=energy))


def test_weights_are_those_of_the_forward_pass(line):
    z = 1e-4 * torch.rand(6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    k1 = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def slope(changed):
        weight = np.full(20, 1e7)
        charge = bt.SpaceChargeGaussian("3D")
        out = track(line, z, REF, {(line[0], "k1"): k1}, weight=weight, space_charge=charge)
        weight *= changed
        return torch.autograd.grad(out[0].var(), k1)

    assert slope(1.0) == slope(100.0)


def test_images_have_derivatives():
    from betatron import losses
    from betatron.torch import image

    screen = losses.Screen((-3e-3, 3e-3, 12), (-2e-3, 2e-3, 10), smoothing=1.1)
    torch.manual_seed(2)
    z = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    # quadratic splines have steps in their second derivative, and differences see them
    assert torch.autograd.gradcheck(lambda u: image(screen, u * 1e-3), [z], eps=1e-6, atol=1e-5)
    assert torch.equal(
        image(screen, z * 1e-3).detach(), torch.tensor(screen.image(z.detach().numpy() * 1e-3))
    )
    with pytest.raises(ValueError, match="shape"):
        image(screen, z[:5])
    with pytest.raises(TypeError, match="tensor"):
        image(screen, np.zeros((6, 3)))
