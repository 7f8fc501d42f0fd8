"""A saved optimizer comes back to the bit, or the file is refused and nothing has changed."""

import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from hashlib import sha256

import numpy as np
import pytest

import fastopt
from fastopt import checkpoint
from fastopt.checkpoint import load, save
from support.arrays import DTYPES, gradients
from support.asserts import assert_like, ids
from support.cases import RULES, RULES_AND_STAGES, Oracle

safetensors = pytest.importorskip("safetensors", reason="saving needs safetensors: pip install 'fastopt[checkpoint]'")

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs fork, signals and permissions as POSIX has them")


def everything(opt):
    """The bits of all that an optimizer holds and of its parameters."""

    def plain(value):
        return (value.dtype.str, value.tobytes()) if isinstance(value, np.ndarray) else repr(value)

    content = opt.state_dict()
    params = [plain(p) for group in opt.groups for p in group["params"]]
    state = {name: {key: plain(value) for key, value in entry.items()} for name, entry in content["state"].items()}
    return params, content["step_count"], [repr(group) for group in content["groups"]], state


@contextmanager
def refused(opt, *texts, error=ValueError):
    """The block raises an error that says all this, and the optimizer does not change."""
    before = everything(opt)
    with pytest.raises(error) as caught:
        yield
    for text in texts:
        assert str(text) in str(caught.value)
    assert everything(opt) == before


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.safetensors"


def small():
    """An optimizer with something of everything to save."""
    opt = fastopt.NAdam([{"params": {"w": np.ones(2, np.float32)}}, {"params": [np.ones(())], "lr": 0.1}])
    opt.step([{"w": np.full(2, 0.5, np.float32)}, [np.full((), 0.5)]])
    return opt


# ---- To the bit ----


@pytest.mark.parametrize("case", RULES_AND_STAGES, ids=ids)
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_a_run_continues_with_the_same_bits(case, dtype, path):
    start = {"w": np.linspace(-2, 2, 35, dtype=dtype).reshape(5, 7), "b": np.array(0.5, dtype)}
    params = {name: p.copy() for name, p in start.items()}
    oracles = {name: Oracle(case, p) for name, p in start.items()}
    sources = {name: gradients(i, p.shape, dtype) for i, (name, p) in enumerate(start.items())}
    opt = case.make(params)
    for t in range(6):
        grads = {name: next(source) for name, source in sources.items()}
        opt.step(grads)
        for name, oracle in oracles.items():
            oracle.step(grads[name])
        if t == 2:
            save(path, opt)
            params = {name: p.copy() for name, p in params.items()}
            fresh = case.make(params)
            load(path, fresh)
            assert everything(fresh) == everything(opt)
            opt = fresh
    for name, oracle in oracles.items():
        assert_like(opt, name, params[name], oracle)


NAMES = [
    "w",
    "",
    "0",
    0,
    -1,
    10**30,
    "a/m",
    "a",
    "a/m/v",
    "__metadata__",
    '"w"',
    "\\",
    "\n\0",
    "é😀",
    "\ud800",
    "x" * 999,
]


def test_any_names(path):
    """Names come back as they are, with the state of their own."""
    opt = fastopt.Adam({name: np.zeros(3) for name in NAMES})
    opt.step({name: np.full(3, i + 1.0) for i, name in enumerate(NAMES)})
    save(path, opt)
    fresh = fastopt.Adam({name: np.zeros(3) for name in reversed(NAMES)})
    load(path, fresh)
    for name in NAMES:
        np.testing.assert_array_equal(fresh.state[name]["m"], opt.state[name]["m"])
    assert len({fresh.state[name]["m"][0] for name in NAMES}) == len(NAMES)


def test_tensors_are_named_after_parameter_and_letter(path):
    opt = fastopt.Adam([{"params": {"w": np.zeros(3)}}, {"params": [np.zeros(2)]}])
    save(path, opt)
    assert set(safetensors.numpy.load_file(path)) == {'"w"/m', '"w"/v', "1/m", "1/v"}


ODD_NUMBERS = [5e-324, np.nextafter(0.1, 1), 0.1 + 0.2, -0.0, 1.7976931348623157e308, 12345678901234567, 0]


@pytest.mark.parametrize(
    "lr", [*ODD_NUMBERS, np.float32(0.1), np.float16(0.1), np.int64(1), np.longdouble(0.1)], ids=repr
)
def test_hyperparameters(lr, path):
    """Every number comes back as the float it stands for, pairs as tuples, None and flags as themselves."""
    groups = [
        {"params": np.ones(2), "lr": lr, "betas": (float(np.nextafter(0.9, 1)), 0.999)},
        {"params": np.ones(2), "weight_decay": 0.1, "maximize": np.True_, "momentum_decay": None},
        {"params": np.ones(2), "momentum_decay": np.inf},
    ]
    opt, fresh = fastopt.NAdam(groups), fastopt.NAdam([{"params": np.ones(2)} for _ in groups])
    save(path, opt)
    load(path, fresh)
    for before, after in zip(opt.groups, fresh.groups, strict=True):
        for key in before.keys() - {"params"}:
            assert after[key] == before[key]
            assert type(after[key]) in (float, int, bool, str, tuple, type(None))
    assert float(fresh.groups[0]["lr"]).hex() == float(lr).hex()


def test_bits_of_the_state(path):
    """NaN payloads, infinities, signed zeros, subnormals, and any double that is carried."""
    patterns = np.array(
        [0x7FF0000000000001, 0xFFF8DEADBEEF0000, 0x7FF << 52, 1 << 63, 1, 0x3FB999999999999A], np.uint64
    )
    opt, fresh = fastopt.NAdam(np.ones(6)), fastopt.NAdam(np.ones(6))
    opt.state[0]["m"][...] = patterns.view(np.float64)
    opt.state[0]["mu_product"][...] = np.nextafter(0.3, 1)
    save(path, opt)
    load(path, fresh)
    assert everything(fresh) == everything(opt)
    np.testing.assert_array_equal(fresh.state[0]["m"].view(np.uint64), patterns)


LAYOUTS = {
    "0-d": lambda: np.ones(()),
    "empty": lambda: np.ones((0, 3)),
    "transposed": lambda: np.ones((2, 3, 4)).transpose(2, 0, 1),
    "Fortran": lambda: np.ones((3, 4), order="F"),
    "strided": lambda: np.ones((6, 8))[::2, ::-3],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout, path):
    """State is saved in the order of the indices, so that the layout of either side does not matter."""
    p = LAYOUTS[layout]()
    opt, contiguous = fastopt.Adam(p), fastopt.Adam(p.copy(order="C"))
    opt.step(np.arange(p.size, dtype=p.dtype).reshape(p.shape))
    save(path, opt)
    load(path, contiguous)
    assert everything(contiguous)[1:] == everything(opt)[1:]
    save(path, contiguous)
    again = fastopt.Adam(LAYOUTS[layout]())
    load(path, again)
    assert everything(again)[1:] == everything(opt)[1:]


def test_the_same_state_gives_the_same_file(path):
    save(path, small())
    first = path.read_bytes()
    save(str(path), small())
    assert path.read_bytes() == first


# ---- Damaged files ----


def test_cut_short_at_any_length(path):
    opt = small()
    save(path, opt)
    whole, before = path.read_bytes(), everything(opt)
    for length in reversed(range(len(whole))):
        os.truncate(path, length)
        with pytest.raises(ValueError, match="must be a whole file"):
            load(path, opt)
    assert everything(opt) == before
    path.write_bytes(whole)
    load(path, opt)


def test_any_bit_flipped(path):
    opt = small()
    save(path, opt)
    whole, before = path.read_bytes(), everything(opt)
    with open(path, "r+b", buffering=0) as file:
        for at in range(8 * len(whole)):
            file.seek(at // 8)
            file.write(bytes([whole[at // 8] ^ 1 << at % 8]))
            with pytest.raises(ValueError, match="must be a whole file"):
                load(path, opt)
            file.seek(at // 8)
            file.write(whole[at // 8 : at // 8 + 1])
    assert everything(opt) == before
    assert path.read_bytes() == whole
    load(path, opt)


@pytest.mark.parametrize("damage", ["append", "swap", "zero", "double"])
def test_other_damage(damage, path):
    opt = small()
    save(path, opt)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "append": whole + b"\0",
            "swap": whole[:-16] + whole[-8:] + whole[-16:-8],
            "zero": bytes(len(whole)),
            "double": whole + whole,
        }[damage]
    )
    with refused(opt, path, "must be a whole file"):
        load(path, opt)


def test_not_a_file_of_fastopt(path, tmp_path):
    opt = small()
    for content in (b"", b"hello", b"{}", bytes(8), (2).to_bytes(8, "little") + b"{}", bytes([255] * 64)):
        path.write_bytes(content)
        with refused(opt, path, "must be a whole file that fastopt.save has written, got"):
            load(path, opt)
    for metadata in (None, {}, {"format": "pt"}, {"fastopt": "", "more": ""}, {"fastopt": ""}, {"fastopt": "0 {}"}):
        safetensors.numpy.save_file({"0/m": np.ones(3)}, path, metadata)
        with refused(opt, path, "must be a whole file that fastopt.save has written, got"):
            load(path, opt)
    for dtype, size in {"BF16": 2, "F8_E4M3": 1, "F8_E8M0": 1, "C64": 8, "U64": 8, "BOOL": 1}.items():
        header = {"__metadata__": {"fastopt": ""}, "0/m": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
        with refused(opt, path, "must be a whole file that fastopt.save has written, got"):
            load(path, opt)
    with refused(opt, tmp_path, error=OSError):
        load(tmp_path, opt)
    with refused(opt, "no such", error=FileNotFoundError):
        load(tmp_path / "no such", opt)


class Trap:
    """Pickled, it leaves a mark when it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return type(self.mark).touch, (self.mark,)


def test_a_pickle_is_never_loaded(path, tmp_path):
    mark = tmp_path / "loaded"
    path.write_bytes(pickle.dumps(Trap(mark)))
    opt = small()
    with refused(opt, path):
        load(path, opt)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()


FORGED = {
    "not JSON": lambda content: "{",
    "nested": lambda content: "[" * 100_000,
    "long number": lambda content: "9" * 100_000,
    "null": lambda content: "null",
    "no state": lambda content: {key: value for key, value in content.items() if key != "state"},
    "state a number": lambda content: {**content, "state": 1},
    "rows of numbers": lambda content: {**content, "state": [1]},
    "a row without numbers": lambda content: {**content, "state": [content["state"][0] | {"numbers": None}]},
    "a row twice": lambda content: {**content, "state": content["state"][:1] * 2},
    "a name that is a list": lambda content: {**content, "state": [content["state"][0] | {"name": []}]},
    "no groups": lambda content: {**content, "groups": []},
    "groups of lists": lambda content: {**content, "groups": [[], []]},
    "no params": lambda content: {**content, "groups": [group | {"params": None} for group in content["groups"]]},
    "a list of lists": lambda content: {**content, "groups": [group | {"params": [[]]} for group in content["groups"]]},
    "text for a number": lambda content: {**content, "groups": [group | {"lr": "1"} for group in content["groups"]]},
    "too large": lambda content: {**content, "groups": [group | {"lr": 10**400} for group in content["groups"]]},
    "another format": lambda content: {**content, "format": 2},
    "steps below 0": lambda content: {**content, "step_count": -1},
    "steps of 1.5": lambda content: {**content, "step_count": 1.5},
}


@pytest.mark.parametrize("forged", FORGED)
def test_forged_content_is_refused_like_any_other(forged, path):
    """A checksum is no signature: what it covers is still checked."""
    opt = small()
    save(path, opt)
    tensors = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        content = json.loads(file.metadata()["fastopt"].partition(" ")[2])
    content = FORGED[forged](content)
    text = content if isinstance(content, str) else json.dumps(content)
    metadata = {"fastopt": f"{checkpoint._checksum(text, tensors, checkpoint.Work('save', None))} {text}"}
    safetensors.numpy.save_file(tensors, path, metadata)
    with refused(opt, path):
        load(path, opt)


def test_the_checksum_covers_every_byte(path):
    """It is the SHA-256 of the JSON and of each tensor's name, dtype, shape and bytes, as anybody can compute it."""
    save(path, small())
    with safetensors.safe_open(path, framework="numpy") as file:
        saved, _, text = file.metadata()["fastopt"].partition(" ")
    total = sha256(text.encode())
    for name, x in sorted(safetensors.numpy.load_file(path).items()):
        total.update(f"\n{name} {x.dtype} {x.shape} ".encode() + x.tobytes())
    assert total.hexdigest() == saved


# ---- Other models ----

w, b = np.ones((2, 3), np.float32), np.ones(3, np.float32)
OTHERS = {
    "another rule": (fastopt.SGD({"w": w}), "rule must be 'Adam', got 'SGD'"),
    "another name": (fastopt.Adam({"v": w}), "params of groups[0] must be ['w'], got ['v']"),
    "an int for a str": (fastopt.Adam({0: w}), "params of groups[0] must be ['w'], got [0]"),
    "one more": (fastopt.Adam({"w": w, "b": b}), "params of groups[0] must be ['w'], got ['w', 'b']"),
    "other groups": (fastopt.Adam([{"params": {"w": w}}, {"params": {"b": b}}]), "groups must be a list of 1, got"),
    "another shape": (fastopt.Adam({"w": w.T}), "'w' must have dtype float32 and shape [2, 3], got"),
    "flattened": (fastopt.Adam({"w": w.reshape(-1)}), "'w' must have dtype float32 and shape [2, 3], got"),
    "another dtype": (fastopt.Adam({"w": w.astype(float)}), "'w' must have dtype float32 and shape [2, 3], got"),
    "more state": (fastopt.Adam({"w": w}, amsgrad=True), "amsgrad must stay False"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_of_another_model(other, path):
    opt = fastopt.Adam({"w": w.copy()})
    opt.step({"w": w})
    source, text = OTHERS[other]
    save(path, source)
    with refused(opt, path, text):
        load(path, opt)


@pytest.mark.parametrize("case", RULES, ids=ids)
def test_shape_and_dtype_are_told_without_state(case, path):
    """SGD has no state that would differ."""
    save(path, case.make(np.ones(3)))
    for other in (np.ones((3, 1)), np.ones(3, np.float32)):
        opt = case.make(other)
        with refused(opt, path, "parameter 0 must have", "float64"):
            load(path, opt)


# ---- Saving replaces the file whole, or leaves it ----


@pytest.fixture
def old_and_newer(path):
    """A saved state, and an optimizer one step on."""
    opt = small()
    save(path, opt)
    opt.step([{"w": np.full(2, 0.5, np.float32)}, [np.full((), 0.5)]])
    return path.read_bytes(), opt


def test_the_file_is_on_the_disk_before_it_replaces_the_old(path, old_and_newer, monkeypatch):
    happened = []

    def watch(name):
        def watched(*args):
            what = os.fstat(args[0]) if name == "fsync" else None
            happened.append(name + (" of the folder" if what and stat.S_ISDIR(what.st_mode) else ""))
            if what and stat.S_ISREG(what.st_mode):
                assert path.read_bytes() == old_and_newer[0]
            return real(*args)

        real = getattr(os, name)
        monkeypatch.setattr(os, name, watched)

    watch("fsync")
    watch("replace")
    save(path, old_and_newer[1])
    assert happened == ["fsync", "replace"] + ["fsync of the folder"] * (os.name == "posix")


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_save_that_fails_leaves_the_old_file(function, error, path, old_and_newer, monkeypatch):
    def fail(*args):
        raise error

    old, opt = old_and_newer
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        save(path, opt)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == [path.name]


@POSIX
def test_a_full_disk(path, old_and_newer):
    resource = pytest.importorskip("resource")
    old, opt = old_and_newer
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(old) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot be saved") as caught:
            save(path, opt)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == [path.name]


def test_no_folder_to_save_in(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such"):
        save(tmp_path / "no such" / "file", small())
    with pytest.raises(OSError, match=r"directory|denied"):
        save(tmp_path, small())
    assert os.listdir(tmp_path) == []


def test_leftovers_are_removed_and_others_are_not(path, old_and_newer):
    """The next save to the same path clears what killed ones left, and takes nothing else for it."""
    others = [".state.safetensors.b.abcdefgh.saving", ".state.safetensors.saving", ".state.safetensors.abc.saving"]
    for name in [".state.safetensors.abcdefgh.saving", ".state.safetensors.12345678.saving", *others]:
        (path.parent / name).mkdir()
        (path.parent / name / "whole").write_bytes(old_and_newer[0][:100])
    save(path, old_and_newer[1])
    assert sorted(os.listdir(path.parent)) == sorted([path.name, *others])


def test_names_with_wildcards(tmp_path):
    (tmp_path / ".abc.abcdefgh.saving").mkdir()
    save(tmp_path / "a[b]c", small())
    save(tmp_path / "a*", small())
    assert sorted(os.listdir(tmp_path)) == sorted([".abc.abcdefgh.saving", "a[b]c", "a*"])


def test_saving_to_one_path_at_once(path):
    """Each save is made or refused by an OSError, the file is always whole, and one of them is made."""
    opts = [small() for _ in range(4)]
    results = []

    def save_again_and_again(opt):
        for _ in range(5):
            try:
                save(path, opt)
                load(path, small())
            except OSError:
                results.append("refused")
            else:
                results.append("saved")

    threads = [threading.Thread(target=save_again_and_again, args=(opt,)) for opt in opts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    assert "saved" in results
    load(path, small())
    save(path, small())
    assert os.listdir(path.parent) == [path.name]


@POSIX
def test_links_and_permissions_are_those_of_any_file(path, tmp_path, old_and_newer):
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    link = tmp_path / "latest"
    link.symlink_to(path.name)
    save(link, old_and_newer[1])
    assert link.is_symlink()
    assert path.read_bytes() != old_and_newer[0]


@POSIX
def test_killed_at_every_line(path, old_and_newer):
    """Whichever line of the module is the last one a process runs: the old state or the new one is there, whole."""
    old, opt = old_and_newer
    steps, lines, finished = [], 0, False
    while not finished:
        path.write_bytes(old)
        lines += 1
        pid = os.fork()
        if pid == 0:
            kill_at_line(lines)
            try:
                save(path, opt)
            finally:
                os._exit(0)
        finished = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        loaded = small()
        load(path, loaded)
        steps.append(loaded.step_count)
        assert len(list(path.parent.glob(".*"))) <= 1
    assert lines > 40
    assert steps == [1] * steps.count(1) + [2] * steps.count(2)
    assert 2 <= steps.count(2) < steps.count(1)
    assert list(path.parent.glob(".*")) == []


def kill_at_line(last):
    """Have this process die when it comes to its so many-th line in the module."""
    left = last

    def trace(frame, event, arg):
        nonlocal left
        if frame.f_code.co_filename != checkpoint.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


@POSIX
def test_killed_at_random_moments(tmp_path):
    """`python -m tests.stress_saves` has the long form."""
    stress_saves = pytest.importorskip("stress_saves")
    counts = stress_saves.run(tmp_path, saves=30, seconds=20)
    assert counts.kills >= 3
    assert counts.inside >= 1


# ---- The library ----


def test_progress_of_saving_and_loading(path, monkeypatch):
    """Bytes are told in order, up to all of them; an error that is raised there changes nothing."""
    monkeypatch.setattr(checkpoint, "CHUNK", 1000)
    opt, other = fastopt.Adam({"w": np.ones(5000)}), fastopt.Adam({"w": np.ones(5000)})
    opt.step({"w": np.ones(5000)})

    def leave(done, total):
        if done == total:
            raise TypeError("enough")

    with pytest.raises(TypeError, match="enough"):
        fastopt.save(path, opt, progress=leave)
    assert not path.exists()
    for call, of_all in ((fastopt.save, 2 * 2 * 40_000), (fastopt.load, None)):
        told = []
        call(path, opt, progress=lambda done, total, told=told: told.append((done, total)))
        done, totals = zip(*told, strict=True)
        assert list(done) == sorted(done)
        assert set(totals) == {done[-1]} == {of_all or 2 * path.stat().st_size}
        assert len(done) > 80
    with pytest.raises(TypeError, match="enough"):
        fastopt.load(path, other, progress=leave)
    assert other.step_count == 0
    for call, name in ((fastopt.save, "save"), (fastopt.load, "load")):
        with pytest.raises(TypeError, match=f"{name}: progress must be a function of two integers or None, got 3"):
            call(path, opt, progress=3)


def test_without_safetensors(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for function in (save, load):
        with pytest.raises(ImportError, match=r"pip install 'fastopt\[checkpoint\]'"):
            function(path, small())
    assert not path.exists()


def test_whether_saving_will_work_can_be_asked_before(tmp_path, monkeypatch):
    """Without the library or a folder to write in; and what is there stays."""
    path = tmp_path / "state"
    path.write_bytes(b"old")
    assert fastopt.check_save(path) is None
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]
    with pytest.raises(FileNotFoundError, match="no such"):
        fastopt.check_save(tmp_path / "no such" / "state")
    with pytest.raises(IsADirectoryError, match="path must be that of a file"):
        fastopt.check_save(tmp_path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install 'fastopt\[checkpoint\]'"):
        fastopt.check_save(path)


def test_importing_fastopt_imports_nothing_for_it():
    code = "import sys, fastopt.checkpoint; print({'safetensors', 'tempfile', 'hashlib', 'pickle'} & set(sys.modules))"
    plain = "import sys, numpy; print({'safetensors', 'tempfile', 'hashlib', 'pickle'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code]) == subprocess.check_output(
        [sys.executable, "-c", plain]
    )


WATCHED = """
import os, sys
import numpy as np

folder, found = os.path.realpath(sys.argv[1]), []
WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod"}


def watch(event, args):
    if event.partition(".")[0] in {"socket", "urllib", "http", "ftplib", "subprocess", "pickle"}:
        found.append(event)
    if event in CHANGES or (event == "open" and args[2] & WRITE):
        if not os.path.realpath(os.fsdecode(args[0])).startswith(folder):
            found.append(event)


sys.addaudithook(watch)
open(os.path.join(folder, "inside"), "w").close()
assert not found
import fastopt
from fastopt.checkpoint import load, save
fastopt.show_config()
for name in fastopt.__all__:
    cls = getattr(fastopt, name)
    if isinstance(cls, type) and issubclass(cls, fastopt.Optimizer) and cls is not fastopt.Optimizer:
        opt = cls([np.ones((100, 1000)), np.ones((3, 1))], num_threads=2)
        opt.step([np.ones((100, 1000)), np.ones((3, 1))])
        path = os.path.join(folder, name)
        save(path, opt)
        load(path, opt)
        opt.load_state_dict(opt.state_dict())
print("found:", found)
# The watcher notices the calls that it is for.
import pickle, socket
pickle.loads(pickle.dumps(os.getcwd))
socket.socket().close()
open(os.path.join(os.path.dirname(folder), "outside"), "w").close()
print("then:", found)
"""


def test_nothing_else_is_written_nor_downloaded_nor_unpickled(tmp_path):
    """From the import on: no file but the saved one, no network, no other program, no pickle."""
    (tmp_path / "folder").mkdir()
    command = [sys.executable, "-B", "-c", WATCHED, str(tmp_path / "folder")]
    lines = subprocess.check_output(command, text=True).splitlines()
    assert "found: []" in lines
    assert lines[-1].startswith("then: ")
    for event in ("pickle.find_class", "socket.__new__", "open"):
        assert event in lines[-1]
