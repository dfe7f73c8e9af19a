"""The GPU's kernel for head-mean maps fits the cards it is for: compiled here, without a card.

It takes a second for each dtype, width and card, less where Triton's cache has it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

triton = pytest.importorskip("triton", reason="this torch has no Triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from asap_eval.kernels import mean_map  # noqa: E402

SHARED_BYTES = {80: 101376, 90: 232448}
"""Shared memory that a program may have, by 10 x compute capability. The tiles of 8.0 are also
those of 8.6 and 8.9, which have less than an A100's 166912."""

REGISTERS = 65536
"""Of a multiprocessor."""

TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Launch(NamedTuple):
    """What `mean_maps` hands to Triton."""

    arguments: tuple[Any, ...]
    options: Mapping[str, Any]


class Recorder:
    """Stands for the kernel: keeps what it is launched with."""

    def __getitem__(self, grid: object) -> Recorder:
        return self

    def __call__(self, *arguments: object, **options: object) -> None:
        self.launch = Launch(arguments, options)


def launched(dtype: torch.dtype, width: int, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """The launch for two biased images of 197 and 50 tokens, 12 heads, fused qkv."""
    recorder = Recorder()
    lengths = torch.tensor([197, 50])
    q, k, _ = torch.empty(247, 3, 12, width, dtype=dtype).unbind(1)
    maps = torch.empty(2, 200, 200)[:, :197, :197]
    with monkeypatch.context() as patch:
        patch.setattr(mean_map, "_tile", recorder)
        images, starts, lse = torch.arange(2), lengths.cumsum(0) - lengths, torch.empty(12, 247)
        mean_map.mean_maps(q, k, torch.empty(247), lse, True, images, starts, lengths, maps)
    return recorder.launch


def compiled(launch: Launch, capability: int) -> Any:
    """That launch compiled for a card, specialised as Triton's launcher does it."""
    names = mean_map._tile.arg_names
    given = dict(zip(names, launch.arguments, strict=False))
    options = {name: launch.options[name] for name in ("num_warps", "num_stages")}
    constants = {name: launch.options[name] for name in launch.options.keys() - options}
    signature, aligned = {}, {}
    for place, name in enumerate(names):
        value = given.get(name)
        if isinstance(value, int) and value == 1:
            constants[name] = value
        if name in constants:
            signature[name] = "constexpr"
            continue
        if isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            aligned[place,] = [["tt.divisibility", 16]]
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(mean_map._tile, signature, places, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(program: Any, folder: Path) -> dict[str, int]:
    """What ptxas gave each thread: ``REG`` registers, and ``STACK`` and ``LOCAL`` bytes of memory,
    which is where spilled registers go."""
    path = folder / "kernel.cubin"
    path.write_bytes(program.asm["cubin"])
    command = [str(TOOLS / "cuobjdump"), "-res-usage", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}


@pytest.mark.skipif(not (TOOLS / "cuobjdump").exists(), reason="this Triton has no CUDA tools")
@pytest.mark.parametrize("capability", SHARED_BYTES)
@pytest.mark.parametrize("width", [32, 64, 72, 80, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_map_kernel_fits(
    dtype: torch.dtype,
    width: int,
    capability: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    launch = launched(dtype, width, monkeypatch)
    program = compiled(launch, capability)
    found = resources(program, tmp_path)
    assert program.metadata.shared <= SHARED_BYTES[capability]
    assert found["REG"] * 32 * launch.options["num_warps"] <= REGISTERS
    assert found["STACK"] == found["LOCAL"] == 0
