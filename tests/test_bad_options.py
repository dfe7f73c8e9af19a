"""Values of options that would change what is kept without a word are refused."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file

from asap_eval.errors import AsapEvalError, BadValueError
from asap_eval.method import Batch, build, methods
from asap_eval.methods.parts.connectivity import largest
from asap_eval.methods.prumerge import merged
from asap_eval.options import options

BATCH = Batch(
    count=2,
    tokens=37,
    prefix=1,
    depth=12,
    has_cls=True,
    grid=(6, 6),
    seed=0,
    device=torch.device("cpu"),
    id_of=str,
)


@pytest.mark.parametrize("name", sorted(methods()))
def test_no_option_is_not_a_number(name: str) -> None:
    for option, hint, _ in options(methods()[name]):
        if hint is float or float in get_args(hint):
            with pytest.raises(BadValueError, match="nan"):
                build(name, **{option: math.nan})


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("scope", {"k": 8, "alpha": math.inf}),
        ("mctf", {"r": math.inf}),
        ("mctf", {"tau_info": 0.0}),
        ("topv_reading", {"gamma": math.inf}),
        ("sparsifiner", {"by": "local", "least": -0.1}),
        ("atm_reading", {"beta": math.inf}),
        ("atm_reading", {"split_after": -1}),
        ("atm_reading", {"split_after": 13}),
        ("ailurus_reading", {"neighbours": 36}),
        ("capa_reading", {"layers": [2, 4], "keep": [8, 16]}),
        ("asvit", {"thresholds": []}),
        ("scope", {"k": 37}),
        ("vispruner", {"k": 0}),
    ],
    ids=str,
)
def test_values_without_a_meaning_are_refused(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(BadValueError) as error:
        build(name, **given).check(BATCH)
    option, value = list(given.items())[-1]
    assert f"{option}={value}" in str(error.value) or option == "thresholds"


def test_maps_that_no_layer_uses_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fits.safetensors"
    reducer = build("capa_reading", ffn=str(path))
    with pytest.raises(AsapEvalError, match="does not exist"):
        reducer.look()
    written = iter(range(1, 9))

    def write(**tensors: torch.Tensor) -> None:
        save_file(tensors, path)
        os.utime(path, (next(written),) * 2)  # as minutes later: clocks of files tick slowly

    for names in (["layers.4.scale"], ["scale.12", "shift.12"]):
        write(**{name: torch.ones(8) for name in names})
        with pytest.raises(BadValueError, match="wanted are"):
            reducer.check(BATCH)
    write(**{"scale.4": torch.ones(8), "shift.4": torch.zeros(8)})
    reducer.check(BATCH)  # the file is read anew
    first = reducer.origin()
    write(**{"scale.4": torch.ones(8), "shift.4": torch.ones(8)})
    assert len(first["sha256"]) == 64
    assert reducer.origin() != first


def test_of_equal_values_the_first_counts() -> None:
    assert largest(torch.ones(3, 50), 4).nonzero()[:, 1].tolist() == [0, 1, 2, 3] * 3
    _, mix = merged(torch.ones(60), torch.ones(60, 4), torch.tensor([40]))
    assert mix[0].nonzero()[:, 0].tolist() == [*range(32), 40]
