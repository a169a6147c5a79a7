"""Which kernels OpenBLAS is told to take, and what glibc is told to keep."""

import os
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from musicot_mlx.cpu import openblas
from musicot_mlx.cpu.openblas import core_type
from musicot_mlx.generation import device

AVX512 = "fma avx2 avx512f avx512bw avx512dq avx512vl"


@pytest.mark.parametrize(
    ("vendor", "flags", "core"),
    [
        ("GenuineIntel", AVX512, "SKYLAKEX"),
        ("GenuineIntel", "sse3 fma avx2", "HASWELL"),
        ("GenuineIntel", "sse3 avx2", None),
        ("GenuineIntel", "", None),
        ("AuthenticAMD", AVX512, None),
    ],
)
def test_intels_are_told_by_their_instructions(vendor: str, flags: str, core: str | None) -> None:
    told = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\nbugs\t\t:\n"
    assert core_type(told) == core


def test_other_machines_are_left_alone() -> None:
    assert core_type("") is None


def test_doctor_says_by_whom_the_kernels_were_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    if openblas.openblas() is None:
        pytest.skip("needs OpenBLAS")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "HASWELL")
    monkeypatch.setattr(openblas, "_set_here", {})
    assert "by OPENBLAS_CORETYPE" in openblas.describe()
    monkeypatch.setattr(openblas, "_set_here", {"core": "HASWELL"})
    assert "by OPENBLAS_CORETYPE" not in openblas.describe()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_that_is_kept_is_given_back_when_nothing_comes() -> None:
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20

    device.give_back()
    before = resident()
    blocks = [mx.ones((2 << 20,)) for _ in range(20)]  # 8 MB each: freed, they are kept
    mx.eval(blocks)
    assert resident() > before + 120
    del blocks
    device.give_back()
    assert resident() < before + 60
