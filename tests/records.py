"""Records made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from asap_eval import record as rec

AT_35 = rec.Budget("macs", -35)


def make(method: str = "asap", **changes: Any) -> rec.RunRecord:
    """A finished record; ``changes`` replace the named values wherever they belong."""

    def pick(**defaults: Any) -> dict[str, Any]:
        return {name: changes.pop(name, value) for name, value in defaults.items()}

    job = rec.Job(
        **pick(model="deit_tiny", data="imagenet", k=None, params={}, seed=0, budget=None),
        method=method,
    )
    provenance = rec.Provenance(
        **pick(command=f"asap-eval method={method}", calibration=None),
        config={},
        commit=None,
        dirty=None,
        sources="s",
        packages={},
        machine={},
        dtype="float32",
        kernels={},
        seeds={},
        weights={"name": "w", "sha256": "0" * 64, "trained": changes.pop("trained", True)},
        data={"source": "imagenet", "ids_digest": "1" * 64, "n": 500},
        started="2026-01-01T00:00:00+00:00",
    )
    done = rec.RunRecord(
        key=changes.pop("key", f"{method}{job.k}{job.seed}"),
        status="done",
        job=job,
        provenance=provenance,
        metrics=rec.Metrics(**pick(top1=70.0, n=500, failed=0)),
        paired=rec.Paired(delta_top1=-9.2, ci95=[-11.6, -6.8], mcnemar_p=1e-7),
        macs=rec.Macs(
            1.254,
            1.05,
            0.043,
            **pick(reduction_pct=-12.6),
            reduction_model_pct=-16.0,
            convention="full",
        ),
        tokens=rec.Tokens(7, 150.0, 141.2, 192, 170.0),
        fired=rec.Fired(5.52, 2, 11, 3, {"5": 247}),
    )
    return replace(done, **changes)


def baseline() -> rec.RunRecord:
    return make("none", top1=79.2, paired=None, fired=rec.Fired(None, None, None, 500, {}))


def put(folder: Path, *records: rec.RunRecord) -> Path:
    for record in records:
        rec.write_record(record, folder)
    return folder
