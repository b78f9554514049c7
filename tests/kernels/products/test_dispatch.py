"""The choice of a kernel, and the calibration that is kept for it."""

from __future__ import annotations

import json
from itertools import cycle

import numpy as np
import pytest

from modelpar.errors import SpecError
from modelpar.kernels import threads
from modelpar.kernels.llvm.subset_sums import HAS_LOOKUP
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products import dispatch, subset_sums
from modelpar.kernels.products.dispatch import VARIABLE, Calibration, Rate, available, choose
from modelpar.kernels.states import pack
from modelpar.machine import caches

needs_compilation = pytest.mark.skipif(not compiled(), reason="without compilation there is one kernel")

# Nanoseconds of a core of 2024; tests change those of the fastest dense kernel where they need it.
TYPICAL = {
    "registers": Rate(0.2, 0.003), "tables": Rate(0.5, 0.006), "lists": Rate(0.4, 0.02), "blas": Rate(0.1, 0.01),
    "tiles": Rate(0.3, 0.001),
}  # fmt: skip
DENSE = next((name for name in ("tiles", "registers", "tables") if name in available()), "blas")


def states(density, n_in=784, batch=256):
    return pack(np.random.default_rng(0).random((n_in, batch)) < density)


def calibration(**down):
    """Typical rates in both directions, with these changes of the direction down."""
    rates = {f"{kernel}.up": rate for kernel, rate in TYPICAL.items()}
    return Calibration(rates | {f"{kernel}.down": rate for kernel, rate in (TYPICAL | down).items()}, 1, "a processor")


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    before = dispatch.calibration()
    dispatch.use(calibration())
    yield
    dispatch.use(before)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache directory of the user."""
    monkeypatch.setattr(caches.platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setenv("TMPDIR", "/proc")  # nor is anything kept elsewhere
    return tmp_path / "cache"


# the choice


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("density", [0.001, 0.5])
@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("integer_sums", [True, False])
def test_the_environment_names_the_kernel(name, density, up, integer_sums, monkeypatch):
    monkeypatch.setenv(VARIABLE, name)
    assert choose(states(density), 500, up=up, integer_sums=integer_sums) == name


def test_an_empty_name_counts_as_none(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    assert dispatch.forced() is None


@pytest.mark.parametrize("name", ["fast", "REGISTERS", "registers "])
def test_an_unknown_kernel_is_refused_in_one_line(name, monkeypatch):
    monkeypatch.setenv(VARIABLE, name)
    for ask in (dispatch.forced, lambda: choose(states(0.5), 500, up=True)):
        with pytest.raises(SpecError) as caught:
            ask()
        message = str(caught.value)
        assert message == f"{VARIABLE} is {name!r}, but this processor has auto, {', '.join(available())}"
        assert "\n" not in message


def test_a_kernel_of_other_processors_is_refused(monkeypatch):
    monkeypatch.setattr(dispatch, "HAS_LOOKUP", False)
    monkeypatch.setattr(dispatch, "allowed", lambda: False)
    monkeypatch.setenv(VARIABLE, "registers")
    with pytest.raises(SpecError, match=r"MODELPAR_KERNELS is 'registers', but this processor has auto"):
        choose(states(0.5), 500, up=True)
    monkeypatch.setenv(VARIABLE, "auto")
    assert "registers" not in available()
    assert choose(states(0.5), 500, up=True) == ("tables" if compiled() else "blas")


@needs_compilation
def test_tiles_that_fail_their_test_are_not_used(monkeypatch):
    monkeypatch.setattr(dispatch, "allowed", lambda: True)
    monkeypatch.setattr(dispatch, "self_test", lambda: False)
    assert choose(states(0.5), 500, up=True) == ("registers" if HAS_LOOKUP else "tables")
    monkeypatch.setenv(VARIABLE, "tiles")
    with pytest.raises(SpecError, match="MODELPAR_KERNELS is 'tiles', but the tiles of this processor give other sums"):
        choose(states(0.5), 500, up=True)


@needs_compilation
@pytest.mark.parametrize("setting", [None, "auto"])
@pytest.mark.parametrize("up", [True, False])
def test_the_fastest_by_the_rates_is_chosen(setting, up, monkeypatch):
    if setting:
        monkeypatch.setenv(VARIABLE, setting)
    assert choose(states(0.01), 500, up=up) == "lists"
    assert choose(states(0.5), 500, up=up) == DENSE
    assert choose(states(0.5, batch=4), 500, up=up) == "blas"
    assert choose(states(0.5, batch=4), 500, up=up, integer_sums=True) == ("registers" if HAS_LOOKUP else "lists")


@needs_compilation
def test_each_direction_has_its_own_rates():
    dispatch.use(calibration(blas=Rate(0.0, 0.0001)))
    assert choose(states(0.5), 500, up=True) == DENSE
    assert choose(states(0.5), 500, up=False) == "blas"
    assert dispatch.rate("blas", up=True) == TYPICAL["blas"]
    assert dispatch.rate("blas", up=False) == Rate(0.0, 0.0001)


@needs_compilation
@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("batch", [0, 1, 256])
@pytest.mark.parametrize("up", [True, False])
def test_the_blas_is_never_chosen_for_integer_sums(density, batch, up):
    blas = Rate(0.0, 1e-9)
    rates = {name: blas if name.startswith("blas") else rate for name, rate in calibration().rates.items()}
    dispatch.use(Calibration(rates, 1, "a processor"))
    assert choose(states(density, batch=batch), 500, up=up, integer_sums=True) != "blas"
    if batch and density == 0.5:
        assert choose(states(density, batch=batch), 500, up=up) == "blas"


@needs_compilation
@pytest.mark.parametrize("n_in", [0, 1, 784, 5000])
def test_lists_win_exactly_where_their_predicted_time_is_shorter(n_in):
    """All units have the same density, so that the density of some is the density of all."""
    for on in range(0, 200, 7):
        bits = np.zeros((n_in, 200), bool)
        bits[:, :on] = True
        load = {kernel: on if kernel == "lists" else 200 for kernel in TYPICAL}
        per_weight = {kernel: rate.weight + rate.sample * load[kernel] for kernel, rate in TYPICAL.items()}
        per_weight = {kernel: per_weight[kernel] for kernel in dispatch.usual()}
        expected = min(per_weight, key=per_weight.__getitem__)
        if n_in:
            assert choose(pack(bits), 500, up=True) == expected
        else:
            assert choose(pack(bits), 500, up=True) in dispatch.candidates()


@needs_compilation
def test_tables_are_for_processors_without_registers(monkeypatch):
    dispatch.use(calibration(tables=Rate(0.0, 1e-9)))
    assert (choose(states(0.5), 500, up=False) == "tables") != HAS_LOOKUP
    monkeypatch.setenv(VARIABLE, "tables")
    assert dispatch.candidates() == ("tables",)


@needs_compilation
def test_without_a_calibration_rates_are_assumed():
    dispatch.use(None)
    assert dispatch.calibration() is None
    for up in (True, False):
        assert choose(states(0.002), 500, up=up) == "lists"
        assert choose(states(0.5), 500, up=up) == DENSE


def test_without_compilation_there_is_the_blas(monkeypatch):
    monkeypatch.setattr(dispatch, "compiled", lambda: False)
    assert available() == ("blas",)
    assert choose(states(0.01), 500, up=True, integer_sums=True) == "blas"
    monkeypatch.setenv(VARIABLE, "lists")
    with pytest.raises(SpecError, match="has auto, blas"):
        dispatch.forced()


def test_seconds_of_a_product():
    assert Rate(0.5, 0.01).seconds(100, 1000, 50) == pytest.approx(1e-9 * 100 * 1000 * (0.5 + 0.01 * 50))


# the file


def fake_measurement(kernel, *, up):
    return Rate(0.25 + len(kernel), 0.001 if up else 0.002)


@pytest.fixture
def measured(monkeypatch):
    """Kernels and directions that were measured, by a substitute that takes no time."""
    names = []

    def measure():
        cases = [(kernel, up) for kernel in dispatch.usual() for up in (True, False)]
        names.extend(cases)
        return {f"{kernel}.{'up' if up else 'down'}": fake_measurement(kernel, up=up) for kernel, up in cases}

    monkeypatch.setattr(dispatch, "_measured", measure)
    return names


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_calibration_is_kept_and_read(cache, measured):
    dispatch.use(None)
    assert not dispatch.load()
    assert dispatch.calibration() is None
    made = dispatch.calibrate()
    assert sorted(measured) == sorted((kernel, up) for kernel in dispatch.usual() for up in (True, False))
    assert made.rates == {f"{kernel}.{name}": fake_measurement(kernel, up=name == "up")
                          for kernel in dispatch.usual() for name in ("up", "down")}  # fmt: skip
    assert dispatch.calibration() is made
    assert list(dispatch.calibration_file().parent.iterdir()) == [dispatch.calibration_file()]
    dispatch.use(None)
    assert dispatch.load()
    assert dispatch.calibration() == made
    assert made.threads == threads.get_threads()
    assert made.processor == dispatch.processor()


@needs_compilation
def test_prepare_measures_once(cache, measured):
    dispatch.prepare()
    n = len(measured)
    assert n == 2 * len(dispatch.usual())
    made = dispatch.calibration()
    dispatch.use(None)
    dispatch.prepare()
    assert len(measured) == n
    assert dispatch.calibration() == made


@pytest.mark.parametrize("name", available())
def test_nothing_is_measured_where_the_environment_names_a_kernel(name, cache, measured, monkeypatch):
    monkeypatch.setenv(VARIABLE, name)
    dispatch.prepare()
    assert not measured
    assert not cache.exists()


def test_prepare_refuses_an_unknown_kernel(cache, measured, monkeypatch):
    monkeypatch.setattr(dispatch, "compiled", lambda: True)
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(SpecError, match="MODELPAR_KERNELS is 'fast'"):
        dispatch.prepare()
    assert not measured


def test_other_threads_and_processors_have_other_files(cache, monkeypatch):
    before = threads.get_threads()
    first = dispatch.calibration_file()
    assert dispatch.calibration_file() == first
    try:
        threads.set_threads(before + 1)
        assert dispatch.calibration_file() != first
    finally:
        threads.set_threads(before)
    monkeypatch.setattr(dispatch, "FEATURES", {"avx2"})
    other = dispatch.calibration_file()
    monkeypatch.setattr(dispatch, "processor", lambda: "another")
    assert len({first, other, dispatch.calibration_file()}) == 3


def good():
    rates = {
        f"{kernel}.{name}": {"weight": 0.1, "sample": 0.2} for kernel in dispatch.usual() for name in ("up", "down")
    }
    return {"rates": rates, "threads": 1, "processor": "a processor"}


def changed(**fields):
    return json.dumps(good() | fields)


def with_rate(rate):
    return changed(rates=good()["rates"] | {"blas.up": rate})


DAMAGED = {
    "empty": "", "cut": json.dumps(good())[:-9], "no rates": "{}", "a list": "[]", "a number": "3", "null": "null",
    "rates of no kind": changed(rates=3), "rates in a list": changed(rates=[1]), "no threads": changed(threads=None),
    "threads in words": changed(threads="two"), "a rate is missing": changed(rates={}), "a null rate": with_rate(None),
    "a rate in words": with_rate({"weight": "a", "sample": "b"}),
    "a negative rate": with_rate({"weight": -1, "sample": 1}),
    "no time for samples": with_rate({"weight": 1, "sample": 0}),
    "not a number": with_rate({"weight": 1, "sample": float("nan")}),
    "half a rate": with_rate({"weight": 1}), "more of a rate": with_rate({"weight": 1, "sample": 1, "size": 2}),
}  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_ignored_and_replaced(content, cache, measured):
    path = dispatch.calibration_file()
    path.parent.mkdir(parents=True)
    path.write_text(content, encoding="utf-8")
    dispatch.use(None)
    assert not dispatch.load()
    assert dispatch.calibration() is None
    made = dispatch.calibrate()
    dispatch.use(None)
    assert dispatch.load()
    assert dispatch.calibration() == made


def test_bytes_that_are_not_text_are_ignored(cache):
    path = dispatch.calibration_file()
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(range(256)))
    assert not dispatch.load()


def test_the_good_file_is_read(cache):
    path = dispatch.calibration_file()
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(good()), encoding="utf-8")
    assert dispatch.load()
    assert dispatch.rate("blas", up=True) == Rate(0.1, 0.2)


def test_a_folder_that_cannot_be_made_is_not_an_error(cache, measured):
    cache.write_text("a file where a folder should be", encoding="utf-8")
    dispatch.use(None)
    assert not dispatch.load()
    made = dispatch.calibrate()
    assert dispatch.calibration() is made
    assert cache.read_text(encoding="utf-8") == "a file where a folder should be"


def test_a_file_that_cannot_be_replaced_is_not_an_error_and_leaves_nothing(cache, measured):
    dispatch.calibration_file().mkdir(parents=True)
    assert not dispatch.load()
    made = dispatch.calibrate()
    assert dispatch.calibration() is made
    assert files_in(cache) == []
    assert list(dispatch.calibration_file().parent.iterdir()) == [dispatch.calibration_file()]


def test_a_folder_that_cannot_be_written_to_is_not_an_error(cache, measured, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr(dispatch.Path, "mkdir", refuse)
    made = dispatch.calibrate()
    assert dispatch.calibration() is made
    assert files_in(cache) == []


def test_measured_rates_are_times(monkeypatch):
    """A real measurement of small products returns usable rates."""
    monkeypatch.setattr(dispatch, "_SIZE", (60, 70))
    monkeypatch.setattr(dispatch, "_ROUNDS", 1)
    rates = dispatch._measured()
    assert set(rates) == {f"{kernel}.{direction}" for kernel in dispatch.usual() for direction in ("up", "down")}
    for rate in rates.values():
        assert rate.weight >= 0
        assert 0 < rate.sample < 1e6
        assert np.isfinite(rate.weight)


def test_a_disturbed_measurement_is_made_again_and_never_kept(monkeypatch):
    """A time that does not grow with the load belongs to no kernel: something else ran beside the smaller product."""
    calls = []

    def seconds(work):
        calls.append(work)
        work()
        return 1.0  # alike at both loads, always

    monkeypatch.setattr(dispatch, "_time", seconds)
    monkeypatch.setattr(dispatch, "_SIZE", (60, 70))
    monkeypatch.setattr(dispatch, "_ROUNDS", 2)
    assumed = dispatch._RATES_WITH if dispatch.HAS_LOOKUP else dispatch._RATES_WITHOUT
    result = dispatch._measured()
    assert len(calls) == dispatch._ATTEMPTS * 2 * 4 * len(dispatch.usual())  # rounds; two loads, two directions
    assert all(rate == assumed[name.partition(".")[0]] for name, rate in result.items())
    times = cycle([1.0, 8.0])
    calls.clear()
    monkeypatch.setattr(dispatch, "_time", lambda work: calls.append(work) or next(times))
    assert all(rate.sample > 0 for rate in dispatch._measured().values())
    assert len(calls) == 2 * 4 * len(dispatch.usual())  # every time grows with the load: once is enough


def test_rates_from_two_times():
    """A product of n weights takes weight + load x sample nanoseconds for each of them."""
    n = dispatch._SIZE[0] * dispatch._SIZE[1]
    rate = dispatch._rate_of([n * 1e-9 * (0.5 + 32 * 0.01), n * 1e-9 * (0.5 + 256 * 0.01)], [32, 256])
    assert np.isclose(rate.weight, 0.5)
    assert np.isclose(rate.sample, 0.01)
    assert dispatch._rate_of([n * 1e-9, n * 1.0001e-9], [32, 256]) is None


@needs_compilation
def test_every_kernel_has_its_form_of_states():
    assert set(available()) <= {*subset_sums.FORMS, "blas"}
    assert ("registers" in available()) == HAS_LOOKUP
