"""The restricted unpickler: nothing that a pickle names is ever run; genuine files load."""

import io
import os
import pickle
import pickletools
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.errors import CorruptInput
from unialign.stages.datasets.pickles import load_restricted

PROTOCOLS = range(6)


class Reduced:
    """Pickles to whatever `__reduce__` value it is given."""

    def __init__(self, value: tuple[Any, ...]) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return self.value


def runs_open(sentinel: str) -> Reduced:
    return Reduced((open, (sentinel, "w")))


PAYLOADS: dict[str, Callable[[str], Any]] = {
    "os.system": lambda sentinel: Reduced((os.system, (f"touch '{sentinel}'",))),
    "eval": lambda sentinel: Reduced((eval, (f"open({sentinel!r}, 'w')",))),
    "exec": lambda sentinel: Reduced((exec, (f"open({sentinel!r}, 'w')",))),
    "open": runs_open,
    "getattr": lambda sentinel: Reduced((getattr, (open, "__call__"))),
    "numpy savetxt": lambda sentinel: Reduced((np.savetxt, (sentinel, [1]))),
    "numpy memmap": lambda sentinel: Reduced((np.memmap, (sentinel, "u1", "w+", 0, 8))),
    "numpy load": lambda sentinel: Reduced((np.load, (sentinel, None, True))),
    "object array": lambda sentinel: np.array([runs_open(sentinel), 1], dtype=object),
    "structured array": lambda sentinel: np.zeros(2, [("a", "f4"), ("b", "i4")]),
    "state setter": lambda sentinel: Reduced((set, ([],), [sentinel, "w"], None, None, open)),
    "hidden in an annotation": lambda sentinel: {"split": {}, "annotations": [{"frame_dir": runs_open(sentinel)}]},
    "as a dict key": lambda sentinel: {(1, Reduced((os.mkdir, (sentinel,)))): 1},
    "instance": lambda sentinel: OrderedDict(a=runs_open(sentinel)),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_runs_and_the_file_is_refused(tmp_path: Path, payload: str, protocol: int) -> None:
    sentinel, path = tmp_path / "sentinel", tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(PAYLOADS[payload](str(sentinel)), protocol=protocol))
    with pytest.raises(CorruptInput, match=r"evil\.pkl: ") as caught:
        load_restricted(path)
    assert not sentinel.exists()
    assert "\n" not in str(caught.value)


def short(text: bytes) -> bytes:
    """The opcode of a short string."""
    return b"\x8c" + bytes([len(text)]) + text


def raw_payloads(sentinel: str) -> dict[str, bytes]:
    touch = f"touch '{sentinel}'".encode()
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4I00\nI01\ntR"
    return {
        "INST": b"(S'" + touch.replace(b"'", b'"') + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'true'\no.",
        "NEWOBJ": b"\x80\x02cbuiltins\nset\n)\x81.",
        "EXT1": b"\x80\x02\x82\x01.",
        "persistent id": b"Psystem\n.",
        "names on the stack": b"\x80\x04" + short(b"posix") + short(b"system") + b"\x93" + short(touch) + b"\x85R.",
        "dotted name": b"\x80\x04" + short(b"numpy") + short(b"dtype.__class__.__mro__") + b"\x93.",
        "dotted walk": b"\x80\x04" + short(b"_codecs") + short(b"encode.__self__") + b"\x93.",
        "build on a function": b"c_codecs\nencode\n}(S'__defaults__'\n(I1\ntsb.",
        "build with slots": b"c_codecs\nencode\n(N}S'_call'\nI1\nstb.",
        "dtype with fields": dtype + b"(I3\nS'<'\nN(S'a'\nt}I4\nI4\nI0\ntb.",
        "bare dtype": dtype + b".",
        "bare function": b"cnumpy\nndarray\n.",
        "array without bytes": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.",
        "array beyond its bytes": b"cnumpy.core.numeric\n_frombuffer\n(C\x04abcd"
        + dtype
        + b"(I1000000000000\ntS'C'\ntR.",
        "array of negative size": b"cnumpy.core.numeric\n_frombuffer\n(C\x04abcd" + dtype + b"(I-1\nI-1\ntS'C'\ntR.",
        "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.",
        "huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
        "huge memo": b"\x80\x02Nr\xfe\xff\xff\x7f.",
        "bytes of a number": b"\x80\x02cbuiltins\nbytes\nM\xff\xff\x85R.",
        "nested too deep": b"]" * 100_000 + b"a" * 99_999 + b".",
        "itself": b"\x80\x02]q\x00h\x00a.",
        "nothing": b"",
        "text": b"path,label\n",
        "stack underflow": b"0.",
    }


@pytest.mark.parametrize("payload", raw_payloads("x"))
def test_handmade_pickles_are_refused(tmp_path: Path, payload: str) -> None:
    sentinel, path = tmp_path / "sentinel", tmp_path / "evil.pkl"
    path.write_bytes(raw_payloads(str(sentinel))[payload])
    with pytest.raises(CorruptInput, match=r"evil\.pkl: "):
        load_restricted(path)
    assert not sentinel.exists()


def test_a_memo_far_larger_than_the_pickle_is_refused_before_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "memo.pkl").write_bytes(raw_payloads("x")["huge memo"])
    with pytest.raises(CorruptInput, match="memo entry 2147483646 after 2 steps"):
        load_restricted(tmp_path / "memo.pkl")


def test_an_attempt_to_change_a_function_leaves_it_working(tmp_path: Path) -> None:
    test_handmade_pickles_are_refused(tmp_path, "build with slots")
    (tmp_path / "good.pkl").write_bytes(pickle.dumps(b"\xff", protocol=2))
    assert load_restricted(tmp_path / "good.pkl") == b"\xff"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_payloads_would_work_on_an_ordinary_unpickler(tmp_path: Path, protocol: int) -> None:
    sentinel = tmp_path / "sentinel"
    pickle.loads(pickle.dumps(PAYLOADS["open"](str(sentinel)), protocol=protocol)).close()
    assert sentinel.exists()


def test_an_unsafe_name_is_told(tmp_path: Path) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Reduced((os.system, ("true",)))))
    with pytest.raises(CorruptInput, match=r"asks for '(posix|nt)\.system'"):
        load_restricted(path)


def test_a_pickle_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = pickle.dumps({"annotations": [np.zeros((2, 3), np.float16)], "n": 12345}, protocol=4)
    path = tmp_path / "cut.pkl"
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptInput) as caught:
            load_restricted(path)
        assert caught.value.status == "truncated", length


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=60), st.integers(0, 200))
def test_damaged_bytes_give_a_value_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, patch: bytes, at: int
) -> None:
    whole = pickle.dumps({"a": [np.arange(6, dtype=np.float32).reshape(2, 3)], "b": ("x", 1, None)}, protocol=2)
    path = tmp_path_factory.mktemp("damaged") / "a.pkl"
    path.write_bytes(whole[:at] + patch + whole[at + len(patch) :])
    try:
        load_restricted(path)
    except CorruptInput as error:
        message = str(error)
        assert message.startswith(f"{path}: ")


SCALARS: list[Any] = [
    np.int64(-3),
    np.float32(0.5),
    np.bool_(True),
    np.str_("naïve"),
    b"",
    b"\xff\x00",
    "a",
    2**70,
    None,
]
ARRAYS: list[np.ndarray] = [
    np.arange(24, dtype=np.float16).reshape(2, 3, 4),
    np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    np.arange(12, dtype=np.int64).reshape(3, 4)[::2],
    np.arange(3, dtype=">f8"),
    np.zeros((0, 5), np.float16),
    np.array(["S001", "S01"]),
    np.array(2.5),
    np.array([True, False]),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_and_arrays_load_as_they_were(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "plain.pkl"
    shared = [1, 2]
    value = {"scalars": SCALARS, "arrays": ARRAYS, "set": {1, "b"}, "frozen": frozenset({2}), "both": (shared, shared)}
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    loaded = load_restricted(path)
    assert loaded["scalars"] == SCALARS
    assert loaded["set"] == {1, "b"}
    assert loaded["frozen"] == {2}
    assert loaded["both"][0] is loaded["both"][1]
    for got, expected in zip(loaded["arrays"], ARRAYS, strict=True):
        assert type(got) is np.ndarray
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pickles_of_numpy_1_load(tmp_path: Path, protocol: int) -> None:
    """Numpy 1 wrote `numpy.core` where numpy 2 writes `numpy._core`; the rest of the bytes is the same."""
    array = np.arange(6, dtype=np.float16).reshape(1, 2, 3)
    written = pickle.dumps([array, np.int64(7)], protocol=protocol)
    old = written.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    old = old.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric").replace(
        b"numpy._core", b"numpy.core"
    )
    if protocol >= 4:  # the frame is shorter now
        size = struct.pack("<Q", struct.unpack("<Q", old[3:11])[0] - (len(written) - len(old)))
        old = old[:3] + size + old[11:]
    assert b"numpy._core" not in old
    path = tmp_path / "old.pkl"
    path.write_bytes(old)
    loaded = load_restricted(path)
    np.testing.assert_array_equal(loaded[0], array)
    assert loaded[1] == 7


def test_pickles_of_python_2_load(tmp_path: Path) -> None:
    """Protocol 2 as Python 2 wrote it: bytes are strings (opcode U)."""
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    path = tmp_path / "two.pkl"
    path.write_bytes(b"\x80\x02" + array + b"(K\x01K\x02\x85" + dtype + b"\x89U\x08\x00\x00\x80?\x00\x00\x00@tb.")
    np.testing.assert_array_equal(load_restricted(path), np.array([1, 2], np.float32))


def test_optimised_pickles_load(tmp_path: Path) -> None:
    path = tmp_path / "small.pkl"
    path.write_bytes(pickletools.optimize(pickle.dumps({"a": ARRAYS[0], "b": [1, 1]}, protocol=4)))
    np.testing.assert_array_equal(load_restricted(path)["a"], ARRAYS[0])


def test_nothing_is_imported_for_an_unknown_name(tmp_path: Path) -> None:
    out = io.BytesIO()
    out.write(b"cantigravity\nfly\n.")
    (tmp_path / "a.pkl").write_bytes(out.getvalue())
    with pytest.raises(CorruptInput):
        load_restricted(tmp_path / "a.pkl")
    assert "antigravity" not in sys.modules


def test_real_pickles_of_another_layout_load(shared_data: Path) -> None:
    content = load_restricted(shared_data / "skeletons" / "jhmdb" / "GT_test_1.pkl")
    assert len(content["pose"]) == 176
    assert content["pose"][0].shape == (40, 15, 2)
    assert np.isfinite(content["pose"][0]).all()


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match="cannot be read"):
        load_restricted(tmp_path / "absent.pkl")
