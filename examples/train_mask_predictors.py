"""Fit Sparsifiner's mask predictors on a folder of images, with the backbone frozen.

    python examples/train_mask_predictors.py --model deit_tiny --data imagenet/train --limit 2000 \\
        --out masks.safetensors
    asap-eval model=deit_tiny method=sparsifiner method.checkpoint=masks.safetensors \\
        method.least=0 data=<other images>

A short training leaves the basis below the authors' threshold of 0.02, where a guess is empty and a
query sees all keys: hence method.least=0.

No labels are used. Do not evaluate on the images it was fitted on. It takes minutes and starts anew
if it is interrupted; the file is written at the end, whole.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from asap_eval.data.images import image_batches, images_of
from asap_eval.models import load_model
from asap_eval.train.masks import fit_masks, write_masks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="deit_tiny", help="%(default)s")
    parser.add_argument("--weights", type=Path, help="file of the backbone; the published ones")
    parser.add_argument("--data", required=True, help="folder of images, as data= takes it")
    parser.add_argument("--limit", type=int, default=2000, help="images (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="%(default)s")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    args = parser.parse_args()
    loaded = load_model(args.model, weights=args.weights)
    images = images_of(loaded, args.data, limit=args.limit, sample="spread")

    def batches() -> Iterator[Tensor]:
        for batch in image_batches(images, loaded.transform, args.batch_size):
            yield batch.pixels

    predictors, losses = fit_masks(loaded.model, batches(), seed=args.seed)
    tenth = max(1, len(losses) // 10)
    ends = [sum(part) / len(part) for part in (losses[:tenth], losses[-tenth:])]
    said = {
        "model": args.model,
        "backbone_sha256": loaded.weights.sha256,
        "data": args.data,
        "images": str(len(images)),
        "seed": str(args.seed),
        "loss_first": f"{ends[0]:.6g}",
        "loss_last": f"{ends[1]:.6g}",
    }
    write_masks(args.out, predictors, said)
    print(f"{args.out}: loss {ends[0]:.4g} at first, {ends[1]:.4g} at the end", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
