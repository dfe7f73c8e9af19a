"""What does token reduction in vision transformers really buy?

>>> import asap_eval
>>> with asap_eval.reduce(model, "asap", k=2, tau=1.7) as trace:  # doctest: +SKIP
...     logits = model(images)
>>> trace.lengths  # [blocks, B] tokens after each block  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asap_eval import methods as _methods  # noqa: F401  (their names)
from asap_eval import plugins

if TYPE_CHECKING:  # torch takes seconds, and `asap-eval --help` needs none
    from contextlib import AbstractContextManager

    from torch import nn

    from asap_eval.packing import Newline
    from asap_eval.trace import Trace

__version__ = "0.1.0"

__all__ = ["plugins", "reduce"]


def reduce(
    model: nn.Module,
    method: str,
    *,
    k: float | None = None,
    seed: int = 0,
    newline: Newline = "kept",
    **params: Any,
) -> AbstractContextManager[Trace]:
    """Run a model with a token reduction method for the time of a ``with``.

    Args:
        model: a timm VisionTransformer, a Hugging Face CLIP vision tower, LLaVA-1.5, LLaVA-NeXT
            or an LV-ViT, in eval mode. It is untouched outside the ``with``: no class is swapped
            and no weight changed. Inside it attention runs fused, also in a model built with eager
            attention.
        method: name of a method (``asap-eval ls methods`` lists them; `plugins.load` brings those
            of a file of your own).
        k: the method's main knob; every method also has its own name for it. What is left out
            is the method's default on any model; those measured for one are the command line's.
        seed: random choices depend on it and on each image's id (its pixels, where
            ``trace.name_images`` gave no ids), never on the batch.
        newline: in LLaVA-NeXT, newlines after rows that kept a token (``kept``), after all rows of
            the image (``all``), or ``none``.
        params: the method's own options.

    Returns:
        A context manager that yields a `Trace`: ``lengths [blocks, B]``, ``fired [B]``,
        ``source [B, P]`` of the latest forward pass; ``mask()`` and ``unmerge(tokens)`` serve its
        padded features. In LLaVA models ``generate`` and ``forward``
        run with the method; B counts crops, and ``handed_to_llm [S]`` and ``language`` say what
        the language model got of each sample.

    Raises:
        UnknownNameError: no such method or option; near names are suggested.
        BadValueError: an option's value is not allowed.
        UnsupportedModelError: the model, or the method on it, cannot be run faithfully.
    """
    from asap_eval.hosts import install
    from asap_eval.method import build

    return install(model, build(method, k=k, **params), seed=seed, newline=newline)
