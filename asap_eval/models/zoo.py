"""A model by name: architecture, weights, transform and what its classes mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from asap_eval.errors import BadValueError, UnknownNameError, WeightsError, unknown
from asap_eval.models.class_names import class_names
from asap_eval.models.published import published_file
from asap_eval.models.spec import (
    IMAGENET_CLASSES,
    OWN_SHAPE,
    PIXELS,
    Labels,
    ModelSpec,
    find,
    plain,
)
from asap_eval.models.weights import WeightsInfo, load_weights, tensors_sha256
from asap_eval.models.zero_shot import TextHead, attach, read_head

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_RANDOM_SEED = 0
_HUB_FILE = "model.safetensors"


@dataclass
class LoadedModel:
    """A model ready to be measured.

    Attributes:
        model: in eval mode, on its device, in its dtype, no gradients.
        transform: an RGB picture to ``[3, H, W]`` fp32, as timm evaluates these weights.
        classes: number of logits with a meaning; 0 = no classifier.
        name: of the model. timm: timm's full name, ``None`` = not a model of timm's.
        spec: what it was built from.
        weights: which weights, with their hash. labels: what class numbers mean.
        class_names: of the classes in order, None = not known, or the ids of ``labels="wnid"``.
    """

    model: nn.Module
    transform: Callable[[Any], Tensor]
    classes: int
    name: str
    timm: str | None
    weights: WeightsInfo
    labels: Labels
    spec: ModelSpec
    class_names: tuple[str, ...] | None = None

    @property
    def params(self) -> dict[str, Any]:
        """What else than its name says which model this is, resolved, for a job."""
        names = None if self.class_names is None else list(self.class_names)
        return {**self.spec.params, "timm": self.timm, "labels": self.labels, "classes": names}

    @property
    def placement(self) -> dict[str, Any]:
        """Where its parts lie, for a record: image models are on one device."""
        return {}

    @property
    def wnid_labels(self) -> bool:
        """Whether the classes are the 1000 of ImageNet in the order of their WordNet ids."""
        return self.labels == "wnid"


def load_model(
    model: str | ModelSpec,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    pretrained: bool = True,
) -> LoadedModel:
    """Build a model and fill it.

    Args:
        model: a name of ``conf/model``, any timm name (``<architecture>.<tag>``), or a spec.
        weights: a file; ``None`` = the published weights (timm's hub, or bundled); ``"random"``
            = random initialisation from a fixed seed, as ``pretrained=False``.
        device: ``cpu``, ``cuda``, ``cuda:1`` ... dtype: float32, bfloat16 or float16.

    Raises:
        UnknownNameError: no such model, tag or dtype. BadValueError: the device is not there.
        WeightsError: weights that are missing, unsafe or do not fit.
    """
    target, precision = check_device(device), check_dtype(dtype)
    spec = model if isinstance(model, ModelSpec) else find(model)
    check_image_model(spec)
    if weights == "random":
        weights, pretrained = None, False
    if weights is not None and not pretrained:
        raise BadValueError(f"weights={weights} and pretrained=False contradict: drop one of them.")
    net = _build(spec)
    if weights is not None:
        info = _load_given(spec, net, Path(weights).expanduser(), str(weights))
    elif pretrained:
        info = _load_published(spec, net)
    else:
        info = WeightsInfo(f"random:seed={_RANDOM_SEED}", tensors_sha256(net), trained=False)
    head = read_head(spec.head) if spec.head is not None else None
    if head is not None:
        attach(net, head, str(spec.head))
        info = replace(info, head_sha256=head.sha256)
    net.eval().requires_grad_(False).to(target, precision)
    count = int(net.num_classes)  # type: ignore[arg-type]
    names = class_names(
        spec.classes,
        head=None if head is None else head.classes,
        weights=Path(weights).expanduser() if weights is not None and count else None,
        count=count,
    )
    labels = _labels(spec, count, named=names is not None)
    _check_order(spec, head, names, labels)
    return LoadedModel(
        net,
        _transform(net, spec),
        0 if labels == "none" else count,
        spec.name,
        _full_name(net) if spec.timm else None,
        info,
        labels,
        _without_defaults(spec, net),
        names if labels == "folders" else None,
    )


def check_image_model(spec: ModelSpec) -> None:
    """Raise `BadValueError` for a vision-language model."""
    if spec.vlm:
        raise BadValueError(
            f"model '{spec.name}' is a vision-language model; this benchmark takes image models. "
            f"Use bench=vlm; from Python, asap_eval.models.load_vlm('{spec.name}') loads it."
        )


def check_device(device: str | torch.device) -> torch.device:
    """The device, if this machine and this torch have it.

    A GPU becomes the current one of this thread: what a library launches without naming a device
    then runs where the model is. ``cuda`` is the first GPU, whichever was used before.
    """
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise BadValueError(
            f"device={device} is not a device. Use cpu, cuda or cuda:<n>."
        ) from error
    if target.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise BadValueError(
                f"device={device}, but torch {torch.__version__} finds no GPU. Use device=cpu, "
                "or install a CUDA build of torch and check the driver with nvidia-smi."
            )
        if (target.index or 0) >= count:
            raise BadValueError(
                f"device={device}, but this machine has {count} GPU(s), from cuda:0."
            )
        target = torch.device("cuda", target.index or 0)
        torch.cuda.set_device(target)
    if target.type not in ("cpu", "cuda"):
        raise BadValueError(
            f"device={device} is not supported: methods and counts need float64, which "
            f"{target.type} may lack, and nothing was tested there. Use cpu, cuda or cuda:<n>."
        )
    return target


def check_dtype(name: str) -> torch.dtype:
    """The torch type of a name; `UnknownNameError` lists the known ones."""
    if name not in DTYPES:
        raise unknown("dtype", str(name), DTYPES)
    return DTYPES[name]


def _build(spec: ModelSpec) -> nn.Module:
    """The architecture in fp32 on the CPU, initialised from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_RANDOM_SEED)
        try:
            if spec.hf is not None:
                from asap_eval.models.clip_tower import ClipTower

                return ClipTower(**spec.kwargs)
            if spec.timm is None:
                return _own(spec.name)[0](**spec.options)
            return _build_timm(spec.timm, spec.options)
        except TypeError as error:
            given = spec.options
            raise BadValueError(f"model.kwargs={given} do not fit {spec.name}: {error}.") from error


def _own(name: str) -> tuple[Callable[..., nn.Module], Path | None]:
    """Constructor of a model of this package, and its bundled weights where there are any."""
    if name == "digits_vit":
        from asap_eval.models import digits_vit

        return digits_vit.digits_vit, digits_vit.WEIGHTS
    if name == "lvvit_s":
        from asap_eval.models import lvvit

        return lvvit.lvvit_s, None
    raise BadValueError(
        f"model '{name}' names no architecture. Set model.timm=<timm name>; "
        "`timm.list_models('vit_*')` lists them."
    )


def _build_timm(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    import timm

    check_timm_name(name)
    return timm.create_model(name, pretrained=False, **kwargs)


def check_timm_name(name: str) -> None:
    """Raise `UnknownNameError` where timm has no such model, or no weights of this tag."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise _unknown_architecture(architecture)
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise unknown(f"pretrained tag of {architecture}", tag, tags)


def _unknown_architecture(name: str) -> UnknownNameError:
    """timm knows a thousand models: near names and the families, not the whole list."""
    import difflib

    import timm

    near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.6)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return UnknownNameError(
        f"timm {timm.__version__} has no model '{name}'.{hint} "
        "`timm.list_models('*vit*')` lists its Vision Transformers."
    )


def _load_given(spec: ModelSpec, net: nn.Module, path: Path, name: str) -> WeightsInfo:
    """Weights of a file; of a whole CLIP model's, the tower's."""
    if spec.hf is None:
        return load_weights(net, path, name, resize=spec.img_size is not None)
    from asap_eval.models import clip_tower

    return clip_tower.load_file(cast(clip_tower.ClipTower, net), path, name)


def _load_published(spec: ModelSpec, net: nn.Module) -> WeightsInfo:
    """Bundled weights for a model of this package, the hub's for the others."""
    if spec.hf is not None:
        from asap_eval.models import clip_tower

        return clip_tower.load_published(cast(clip_tower.ClipTower, net), spec.hf)
    if spec.timm is None:
        path = _own(spec.name)[1]
        if path is None:
            raise WeightsError(
                f"No weights come with {spec.name}: fetch them from {spec.source} and give the "
                "file (weights=<file>), or weights=random for a run that only tries the plumbing."
            )
        return load_weights(net, path, f"bundled:{path.name}")
    config = cast(Mapping[str, Any], net.pretrained_cfg)
    repository = config.get("hf_hub_id")
    if not repository:
        raise WeightsError(
            f"timm publishes no weights for {_full_name(net)}. Give a file (weights=<file>), or "
            "weights=random for a run that only tries the plumbing."
        )
    file = config.get("hf_hub_filename") or _HUB_FILE
    what, instead = f"The weights of {_full_name(net)}", "give it as weights=<file>"
    found = published_file(str(repository), str(file), what, instead)
    resize = spec.img_size is not None
    info = load_weights(net, found.path, f"hub:{repository}/{file}", resize=resize)
    return replace(info, commit=found.commit)


def _full_name(net: nn.Module) -> str:
    """timm's name with the pretrained tag, also where the tag was left to timm's default."""
    config = cast(Mapping[str, Any], net.pretrained_cfg)
    tag = config.get("tag")
    return f"{config['architecture']}.{tag}" if tag else str(config["architecture"])


def _labels(spec: ModelSpec, classes: int, *, named: bool) -> Labels:
    """What the class numbers mean; ``named``: whether anything says what the classes are called."""
    if spec.classes is not None and spec.labels != "none":
        return "folders"
    if spec.labels == "auto":
        asked = named or spec.num_classes is not None
        return "wnid" if classes == IMAGENET_CLASSES else "folders" if asked else "none"
    if spec.labels == "wnid" and classes != IMAGENET_CLASSES:
        raise BadValueError(
            f"model '{spec.name}' has {classes} classes, so its labels cannot be the "
            f"{IMAGENET_CLASSES} of ImageNet. Name them (model.classes=<file, one a line>), or set "
            "model.labels=folders or model.labels=none."
        )
    if spec.labels == "folders" and classes == 0:
        raise BadValueError(f"model '{spec.name}' has no classifier: set model.labels=none.")
    return cast(Labels, spec.labels)


def _check_order(
    spec: ModelSpec, head: TextHead | None, names: Sequence[str] | None, labels: Labels
) -> None:
    """Where labels are WordNet ids, a head that names its classes has to name ImageNet's in order,
    and so has a checkpoint that names them by their ids."""
    if names is None or labels != "wnid":
        return
    from timm.data import ImageNetInfo

    ids = ImageNetInfo().label_names()
    source = "the checkpoint" if head is None else f"model.head={spec.head}"
    if list(names) != ids and (head is not None or set(names) == set(ids)):
        at = next(i for i, pair in enumerate(zip(names, ids, strict=True)) if len({*pair}) > 1)
        raise WeightsError(
            f"{source} is not of ImageNet's {IMAGENET_CLASSES} classes in their order: class {at} "
            f"is {names[at]}, not {ids[at]}. Make it again, or set model.labels=folders."
        )


def _without_defaults(spec: ModelSpec, net: nn.Module) -> ModelSpec:
    """The spec without what would be so anyhow: equal runs are equal jobs."""
    own = {**getattr(net, "pretrained_cfg", {})}
    own["img_size"] = own.get("input_size", (0, 0))[1:]

    given = {name: plain(getattr(spec, name)) for name in (*OWN_SHAPE, *PIXELS)}
    if isinstance(side := given["img_size"], int):
        given["img_size"] = [side, side]
    same = [name for name, value in given.items() if value == plain(own.get(name))]
    dropped: dict[str, Any] = dict.fromkeys(same)
    return replace(spec, **dropped)


def _transform(net: nn.Module, spec: ModelSpec) -> Callable[[Any], Tensor]:
    """timm's evaluation transform for these weights, at the size of the model, or as asked for."""
    from timm.data import create_transform, resolve_model_data_config

    config = resolve_model_data_config(net)
    if (side := spec.options.get("img_size")) is not None:
        config["input_size"] = (3, *([side] * 2 if isinstance(side, int) else side))
    asked = {name: getattr(spec, name) for name in PIXELS}
    config |= {name: value for name, value in asked.items() if value is not None}
    return cast(Callable[[Any], Tensor], create_transform(**config, is_training=False))
