"""Turn-by-turn monitors: the right numbers, in bounded memory, in files that are never written
over."""

import subprocess
import sys
import textwrap

import betatron as bt
import numpy as np
import pandas as pd
import pytest

COORDINATES = ("x", "px", "y", "py", "t", "pt")
REFERENCE = bt.Reference("electron", kinetic_energy=1e9)


def make_beam(n=50, precision="double", seed=1):
    rng = np.random.default_rng(seed)
    dtype = np.float32 if precision == "single" else np.float64
    columns = {q: rng.normal(scale=1e-4, size=n).astype(dtype) for q in COORDINATES}
    return bt.Beam.from_arrays(REFERENCE, **columns, id=np.arange(100, 100 + n))


def make_cell():
    d = bt.Drift(0.5, name="d")
    return bt.Line([
        bt.Quadrupole(0.2, k1=2.0, name="qf"), d, bt.Sextupole(0.1, k2=3.0, name="sx"),
        bt.Quadrupole(0.2, k1=-2.0, name="qd"), d, bt.Marker(name="end"),
    ])  # fmt: skip


def one_turn_at_a_time(line, beam, turns, first_turn=0):
    """Coordinates behind the line, shape (6, turns, n)."""
    seen = []
    for turn in range(turns):
        line.track(beam, first_turn=first_turn + turn)
        seen.append([beam[q].astype(float) for q in COORDINATES])
    return np.array(seen).transpose(1, 0, 2)


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("ending", [None, ".h5", ".json"])
def test_coordinates_are_those_of_the_particles(tmp_path, precision, ending):
    path = None if ending is None else tmp_path / f"ring{ending}"
    line = make_cell()
    watch = bt.TurnByTurn(
        path,
        ["qf", "end"],
        particles=[149, 103],
        quantities=("coordinates", "moments"),
        chunk=10_000,
    )
    track = line.track(make_beam(precision=precision), turns=20, monitor=watch)
    expected = one_turn_at_a_time(line, make_beam(precision=precision), 20)
    seen = watch.coordinates("end")
    assert seen.shape == (6, 20, 2)
    np.testing.assert_array_equal(seen, expected[:, :, [49, 3]])
    np.testing.assert_array_equal(watch.turns("end"), np.arange(20))
    np.testing.assert_array_equal(watch.coordinates(5, first=3, last=7), seen[:, 3:8])
    assert watch.coordinates("qf").shape == (6, 20, 2)
    assert watch.particles.tolist() == [149, 103]
    assert len(track.moments) == 0  # a monitor's moments are its own

    recorded = line.track(make_beam(precision=precision), turns=20, record=["qf", "end"]).moments
    pd.testing.assert_frame_equal(watch.moments, recorded.drop(columns="kind"))

    if path is not None:
        again = bt.TurnByTurn.load(path)
        np.testing.assert_array_equal(again.coordinates("end"), seen)
        pd.testing.assert_frame_equal(again.moments, watch.moments)
        assert again.particles.tolist() == [149, 103]
        assert (again.every, again.quantities, again.places) == (1, watch.quantities, watch.places)


@pytest.mark.parametrize(("every", "first_turn"), [(3, 0), (7, 5), (4, -6), (100, 0), (100, 1)])
def test_every_counts_the_numbers_of_turns(every, first_turn):
    line = make_cell()
    watch = bt.TurnByTurn(quantities=("centroid", "coordinates"), every=every, chunk=1)
    line.track(make_beam(), turns=25, first_turn=first_turn, monitor=watch)
    expected = one_turn_at_a_time(line, make_beam(), 25)
    numbers = [n for n in range(first_turn, first_turn + 25) if n % every == 0]
    np.testing.assert_array_equal(watch.turns(), numbers)
    rows = [n - first_turn for n in numbers]
    np.testing.assert_array_equal(watch.coordinates(), expected[:, rows])
    assert watch.moments["turn"].tolist() == numbers
    np.testing.assert_allclose(
        watch.moments["mean_x"], expected[0, rows].mean(axis=1), rtol=1e-12, atol=1e-20
    )
    assert list(watch.moments.columns[-8:]) == ["s", "n", *(f"mean_{q}" for q in COORDINATES)]


def test_records_and_a_monitor_side_by_side():
    line = make_cell()
    watch = bt.TurnByTurn(elements=["qd", "end"], quantities="moments", every=2)
    track = line.track(make_beam(), turns=6, record=["qf", "end"], monitor=watch)
    alone = line.track(make_beam(), turns=6, record=["qf", "end"])
    pd.testing.assert_frame_equal(track.moments, alone.moments)
    other = line.track(make_beam(), turns=6, record=["qd", "end"]).moments.drop(columns="kind")
    pd.testing.assert_frame_equal(
        watch.moments, other[other["turn"] % 2 == 0].reset_index(drop=True)
    )


def test_lost_particles_are_nan_from_where_they_are_lost():
    cell = make_cell()
    line = bt.Line([cell, bt.Aperture(x_max=1.0, y_max=1.0, name="hole"), bt.Marker(name="last")])
    beam = make_beam(500)
    beam.x[[7, 400]] = 0.3  # comes close to the aperture, and the sextupole kicks it beyond
    watch = bt.TurnByTurn(
        elements=["end", "last"], quantities=("coordinates", "centroid"), chunk=1 << 20
    )
    line.track(beam, turns=200, monitor=watch)
    assert beam.n_lost == 2
    for where, inclusive in (("end", 1), ("last", 0)):
        seen = watch.coordinates(where)
        for _, particle in beam.lost.iterrows():
            last = int(particle["turn"]) + inclusive
            slot = int(np.flatnonzero(watch.particles == particle["id"])[0])
            assert np.isfinite(seen[:, :last, slot]).all()
            assert np.isnan(seen[:, last:, slot]).all()
        rest = ~np.isin(watch.particles, beam.lost["id"])
        assert np.isfinite(seen[:, :, rest]).all()
        np.testing.assert_array_equal(
            seen[0, -1, rest], seen[0, -1][np.isin(watch.particles, beam.id)]
        )


def test_threads_and_chunks_change_nothing():
    line = 10 * make_cell()
    beams = [make_beam(2000) for _ in range(2)]
    seen = []
    for beam, threads, chunk in zip(beams, (1, 4), (1, 1 << 24), strict=True):
        watch = bt.TurnByTurn(quantities=("moments", "coordinates"), chunk=chunk, every=3)
        line.track(beam, turns=50, threads=threads, monitor=watch)
        seen.append(watch)
    np.testing.assert_array_equal(seen[0].coordinates(), seen[1].coordinates())
    pd.testing.assert_frame_equal(seen[0].moments, seen[1].moments)


def test_watching_does_not_change_the_beam():
    watched, alone = make_beam(), make_beam()
    line = make_cell()
    watch = bt.TurnByTurn(elements="all", quantities=("moments", "coordinates"))
    line.track(watched, turns=30, monitor=watch)
    line.track(alone, turns=30)
    np.testing.assert_array_equal(watched.array, alone.array)
    assert watched.reference.s == pytest.approx(alone.reference.s, rel=1e-14)
    assert len(watch.moments) == 30 * len(line)
    with pytest.raises(KeyError, match="stands for 2 of the places"):
        watch.coordinates("d")


def test_backward_and_no_turns():
    line = make_cell()
    beam = make_beam()
    line.track(beam, turns=3)
    watch = bt.TurnByTurn(elements="qf", quantities="coordinates")
    line.track(beam, turns=3, backward=True, monitor=watch)
    np.testing.assert_array_equal(watch.coordinates()[0, -1], beam.x)
    nothing = bt.TurnByTurn(quantities=("moments", "coordinates"))
    line.track(beam, turns=0, monitor=nothing)
    assert nothing.coordinates().shape == (6, 0, 50)
    assert len(nothing.moments) == 0


def test_files_are_never_written_over(tmp_path):
    path = tmp_path / "ring.h5"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match=r"ring\.h5 exists"):
        bt.TurnByTurn(path)
    later = bt.TurnByTurn(tmp_path / "later.h5")
    (tmp_path / "later.h5").write_text("precious")
    beam = make_beam()
    with pytest.raises(FileExistsError):
        make_cell().track(beam, monitor=later)
    assert beam.reference.s == 0
    assert path.read_text() == "precious"


def test_an_interrupted_run_keeps_what_was_seen(tmp_path):
    class StopError(Exception):
        pass

    def stop(part):
        if part > 0.3:
            raise StopError

    line = 200 * make_cell()
    beam = make_beam(3000)
    watch = bt.TurnByTurn(tmp_path / "ring.h5", quantities=("centroid",), chunk=1)
    with pytest.raises(StopError):
        line.track(beam, turns=400, monitor=watch, progress=stop)
    seen = bt.TurnByTurn.load(tmp_path / "ring.h5").moments
    assert 0 < len(seen) < 400
    # the last record is the beam as it stands
    assert seen["s"].iloc[-1] == pytest.approx(beam.reference.s)
    assert seen["mean_x"].iloc[-1] == pytest.approx(beam.x.mean(), rel=1e-9)


def test_an_error_while_writing_leaves_the_beam_in_one_piece(tmp_path, monkeypatch):
    watch = bt.TurnByTurn(tmp_path / "ring.h5", chunk=1)

    def full(chunk):
        raise OSError("disk full")

    monkeypatch.setattr(watch._store, "append", full)
    line, beam, same = make_cell(), make_beam(), make_beam()
    with pytest.raises(OSError, match="disk full"):
        line.track(beam, turns=1000, monitor=watch)
    turns = round(beam.reference.s / line.length)
    line.track(same, turns=turns)
    np.testing.assert_array_equal(beam.array, same.array)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="quantities"):
        bt.TurnByTurn(quantities="tune")
    with pytest.raises(ValueError, match="every = 0"):
        bt.TurnByTurn(every=0)
    with pytest.raises(TypeError, match="slice or ids"):
        bt.TurnByTurn(particles=[0.5])
    with pytest.raises(ValueError, match="different ids"):
        bt.TurnByTurn(particles=[1, 1])
    with pytest.raises(ValueError, match=r"must end in one of .*\.h5"):
        bt.TurnByTurn("ring.txt")
    line, beam = make_cell(), make_beam()
    with pytest.raises(TypeError, match=r"monitor must be a betatron\.TurnByTurn"):
        line.track(beam, monitor="all")
    with pytest.raises(ValueError, match="no particle with the id 7"):
        line.track(beam, monitor=bt.TurnByTurn(particles=[7], quantities="coordinates"))
    with pytest.raises(KeyError, match="no element is named 'qff'"):
        line.track(beam, monitor=bt.TurnByTurn(elements="qff"))
    with pytest.raises(ValueError, match="no elements"):
        bt.Line([]).track(beam, monitor=bt.TurnByTurn())
    used = bt.TurnByTurn()
    line.track(beam, monitor=used)
    with pytest.raises(ValueError, match="make another one"):
        line.track(beam, monitor=used)
    with pytest.raises(ValueError, match="coordinates were not recorded"):
        used.coordinates()
    with pytest.raises(FileNotFoundError):
        bt.TurnByTurn.load("nowhere.h5")


def test_memory_is_bounded(tmp_path):
    """100 particles, 10000 turns: 190 MB of coordinates and moments through 1 MB of buffer."""
    code = """
        import resource, sys
        import betatron as bt
        qf, qd, d = bt.Quadrupole(0.2, k1=1.0), bt.Quadrupole(0.2, k1=-1.0), bt.Drift(1)
        line = bt.Line([qf, d, qd, d])
        beam = bt.Beam(bt.Reference("electron", kinetic_energy=1e9), n=100)
        def run(name, turns):
            watch = bt.TurnByTurn(
                sys.argv[1] + name, quantities=("coordinates", "centroid"), elements="all",
                chunk=1_000_000,
            )
            line.track(beam, turns=turns, monitor=watch)
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        first = run("/short.h5", 500)
        print(run("/long.h5", 10_000) - first)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    size = sum(p.stat().st_size for p in tmp_path.glob("long.h5")) / 2**20
    assert size > 150
    assert float(result.stdout) < 40  # MB
