"""What can be said of a model before it is built: whether its names and files are there."""

from __future__ import annotations

from pathlib import Path

from asap_eval.checkpoint import check_there
from asap_eval.models.class_names import given_names
from asap_eval.models.spec import IMAGENET_CLASSES, ModelSpec
from asap_eval.models.vlm import check_saved, check_vlm
from asap_eval.models.zero_shot import read_head
from asap_eval.models.zoo import check_device, check_dtype, check_image_model, check_timm_name


def look(
    spec: ModelSpec, weights: str | None, *, vlm: bool, device: str = "cpu", dtype: str = "float32"
) -> None:
    """Refuse what `load_model` or `load_vlm` would refuse; nothing is built, read whole or fetched.

    Args:
        weights: as for them. vlm: whether a vision-language model is wanted.

    Raises:
        AsapEvalError: names, a device or files that are not there, in this order.
    """
    check_device(device)
    check_dtype(dtype)
    if vlm:
        check_vlm(spec)
        check_saved(spec, weights)
        return
    check_image_model(spec)
    if spec.timm is not None:
        check_timm_name(spec.timm)
    if weights is not None and weights != "random":
        check_there(Path(weights).expanduser())
    if spec.classes is not None:
        given_names(spec.classes)
    if spec.head is not None:
        read_head(spec.head)


def of_imagenet(spec: ModelSpec) -> bool:
    """Whether its classes will be ImageNet's (``labels="wnid"`` of the loaded model)."""
    if spec.classes is not None or spec.labels != "auto":
        return spec.classes is None and spec.labels == "wnid"
    if spec.head is not None:
        return len(read_head(spec.head).embeds) == IMAGENET_CLASSES
    count = spec.options.get("num_classes")
    if count is None and spec.timm is not None:
        import timm

        config = timm.get_pretrained_cfg(spec.timm)
        count = None if config is None else config.num_classes
    return count == IMAGENET_CLASSES
