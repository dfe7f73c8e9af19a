"""DART against vectors made by a public port of its authors' function."""

from __future__ import annotations

import golden_vlm as g
import torch

from asap_eval.methods.dart import Dart, largest, unlike


@g.files("dart", "fn_*")
def test_functions(stem: str) -> None:
    """In the port's order of pivots, which is a Python set's."""
    golden = g.read(f"dart/{stem}")
    start, count = int(golden["image_start"]), int(golden["image_count"])
    keys, state = golden["keys"][0], golden["state"][0]
    norm = keys.abs().sum((0, 2))
    place = torch.arange(len(state))
    image = (place >= start) & (place < start + count)
    pivots = [golden[f"pivot_{kind}"].tolist() for kind in ("image", "text")]
    found = [
        largest(norm, image, len(pivots[0])),
        largest(norm, place >= start + count, len(pivots[1])),
    ]
    assert found == pivots
    method = Dart(r=float(golden["reduction_ratio"]))
    each = method._each(count, sum(map(len, pivots)))
    assert each == int(golden["per_pivot"])
    order = golden["pivot_order"].tolist()
    assert sorted(order) == sorted(pivots[0] + pivots[1])
    kept = {*unlike(state, image.nonzero().flatten(), order, each), *pivots[0]}
    text = set(place[~image].tolist())
    assert sorted(kept) == sorted(set(golden["kept_positions"].tolist()) - text)
    assert len(kept) == len(pivots[0]) + each * len(order)
