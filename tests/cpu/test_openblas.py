"""Which kernels OpenBLAS is told to take."""

import pytest

from musicot_mlx.cpu import openblas
from musicot_mlx.cpu.openblas import core_type

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
