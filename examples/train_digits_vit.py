"""Train the bundled example's ViT on the cluttered digits (``asap_eval/example/README.md``).

::

    python examples/train_digits_vit.py --out asap_eval/example/digits_vit.safetensors

Data-parallel over single-threaded processes (``--workers``), which on a shared machine is much
faster than one process with as many threads. Deterministic for a given seed, number of workers and
type of machine. bf16 autocast is on by default, for speed on CPUs that have it; ``--fp32`` trains
without it. No token reduction is involved.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from digits_task import CANVAS, Batch, clutter_bank, load_splits, render, test_set
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from asap_eval.models.digits_vit import CONFIG, digits_vit

PATCH = int(CONFIG["patch_size"])


def to_input(images: np.ndarray) -> Tensor:
    """``uint8 [n, S, S, 3]`` to the model's ``float32 [n, 3, S, S]`` in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def patch_targets(batch: Batch) -> Tensor:
    """Class of each patch, ``int64 [n, patches]``: the digit where its strokes are, else 10."""
    side = CANVAS // PATCH
    share = batch.masks.reshape(-1, side, PATCH, side, PATCH).mean((2, 4)).reshape(-1, side * side)
    return torch.from_numpy(np.where(share > 0.05, batch.labels[:, None], 10))


def sincos_positions(side: int, dim: int) -> Tensor:
    """2-D sine-cosine position embedding, ``[side * side, dim]``; only the starting point."""
    at = torch.arange(side).float()
    angles = at[:, None] / 100.0 ** (torch.arange(dim // 4) / (dim // 4))
    axis = torch.cat([angles.sin(), angles.cos()], 1)
    rows, columns = axis.repeat_interleave(side, 0), axis.repeat(side, 1)
    return torch.cat([rows, columns], 1)


@torch.inference_mode()
def accuracy(model: nn.Module, batch: Batch) -> float:
    """Top-1 accuracy in fp32."""
    model.eval()
    hits = 0
    for start in range(0, len(batch.labels), 100):
        part = slice(start, start + 100)
        predicted = model(to_input(batch.images[part])).argmax(1).numpy()
        hits += int((predicted == batch.labels[part]).sum())
    model.train()
    return hits / len(batch.labels)


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the bundled digits ViT.")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument(
        "--patch-loss",
        type=float,
        default=1.0,
        help="weight of the per-patch loss at the start; falls to 0 at 80 %%",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes sharing each batch")
    parser.add_argument("--fp32", action="store_true", help="no bf16 autocast")
    return parser.parse_args()


def average_gradients(parameters: list[nn.Parameter], workers: int) -> None:
    """Replace each gradient by its mean over the workers, in one exchange."""
    present = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in present])
    dist.all_reduce(flat)
    flat /= workers
    for grad, part in zip(present, flat.split([g.numel() for g in present]), strict=True):
        grad.copy_(part.view_as(grad))


def work(rank: int, args: argparse.Namespace, rendezvous: str) -> None:
    """One of the data-parallel processes; the first also reports, evaluates and saves."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=args.workers
    )
    rng = np.random.default_rng([args.seed, rank])
    train, val, _ = load_splits()
    bank = clutter_bank(train.digits, rng)
    val_batch = render(val, bank, np.random.default_rng(1), 300)
    model = digits_vit()
    for block in model.blocks:
        block.attn.fused_attn = False  # the same attention, several times faster to train on CPU
    with torch.no_grad():
        model.pos_embed[:, 1:] = 0.5 * sincos_positions(CANVAS // PATCH, model.embed_dim)
    patch_head = nn.Linear(model.embed_dim, 11)
    parameters = [*model.parameters(), *patch_head.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=args.lr,
        betas=(0.9, 0.98),
    )
    warmup = max(1, min(300, args.steps // 5))
    if rank == 0:
        count = sum(p.numel() for p in model.parameters())
        print(f"{count} parameters, {args.steps} steps of {args.batch_size}", flush=True)

    started, cpu_started, shown = time.perf_counter(), time.process_time(), []
    for step in range(args.steps):
        done = step / args.steps
        scale = min(1.0, (step + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * scale
        amount = min(1.0, 0.2 + done / 0.25)  # clutter grows to the task's in the first fifth
        batch = render(train, bank, rng, args.batch_size // args.workers, amount=amount)

        weight = args.patch_loss * max(0.0, 1 - done / 0.8)
        with torch.autocast("cpu", torch.bfloat16, enabled=not args.fp32):
            tokens = model.forward_features(to_input(batch.images))
            logits = model.forward_head(tokens).float()
            patch_logits = patch_head(tokens[:, 1:]).float() if weight else None
        loss = F.cross_entropy(logits, torch.from_numpy(batch.labels), label_smoothing=0.05)
        patch_loss = torch.zeros(())
        if patch_logits is not None:
            targets = patch_targets(batch).flatten()
            patch_loss = F.cross_entropy(patch_logits.flatten(0, 1), targets)
        optimizer.zero_grad()
        (loss + weight * patch_loss).backward()
        average_gradients(parameters, args.workers)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

        hits = (logits.argmax(1).numpy() == batch.labels).mean()
        shown.append((loss.item(), patch_loss.item(), hits))
        last = step + 1 == args.steps
        if rank == 0 and ((step + 1) % 100 == 0 or last):
            text = "loss {:.3f} patch loss {:.3f} accuracy {:.3f}".format(*np.mean(shown, 0))
            shown = []
            if (step + 1) % 500 == 0 or last:
                text += f" validation {accuracy(model, val_batch):.3f}"
            seconds = time.perf_counter() - started
            rate = (step + 1) * args.batch_size / seconds
            left = seconds / (step + 1) * (args.steps - step - 1) / 60
            print(f"step {step + 1} {text} | {rate:.0f} images/s, {left:.1f} min left", flush=True)

    minutes = torch.tensor([time.perf_counter() - started, time.process_time() - cpu_started]) / 60
    wall = minutes[0].item()
    dist.all_reduce(minutes)
    dist.destroy_process_group()
    if rank == 0:
        print(f"trained in {wall:.1f} min wall, {minutes[1].item():.1f} min CPU")
        finish(model, args)


def finish(model: nn.Module, args: argparse.Namespace) -> None:
    """Round to fp16, measure the held-out accuracy of exactly that, and save it."""
    weights = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    model.load_state_dict(weights)
    held_out = test_set()
    measured = accuracy(model, held_out)
    print(f"test accuracy (fp16 weights) {measured:.4f} on {len(held_out.labels)} images")
    metadata = {
        "command": shlex.join(["python", "examples/train_digits_vit.py", *args.argv]),
        "config": repr(CONFIG),
        "seed": str(args.seed),
        "steps": str(args.steps),
        "batch_size": str(args.batch_size),
        "workers": str(args.workers),
        "torch": torch.__version__,
        "parameters": str(sum(v.numel() for v in weights.values())),
        "test_images": str(len(held_out.labels)),
        "test_accuracy": f"{measured:.4f}",
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, args.out, metadata=metadata)
    print(f"wrote {args.out}: {args.out.stat().st_size} bytes")


def main() -> None:
    """Start the workers."""
    args = parse_args()
    args.argv = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = str(Path(folder) / "rendezvous")
        torch.multiprocessing.spawn(work, (args, rendezvous), nprocs=args.workers)


if __name__ == "__main__":
    main()
