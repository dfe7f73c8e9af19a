"""What a model is built from: a file of ``conf/model``, or any name that timm knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from asap_eval.errors import BadValueError, unknown
from asap_eval.hub.errors import address
from asap_eval.models.class_names import given_names
from asap_eval.paths import conf_dir

Labels = Literal["wnid", "folders", "none"]
"""What class numbers mean: the 1000 ImageNet ids in order; the model's own names or, where nothing
says them, the data's sorted class folders; or nothing (a model without a classifier)."""

Family = Literal["image", "llava", "llava_next"]

IMAGENET_CLASSES = 1000


OWN_SHAPE = ("num_classes", "img_size")
"""Options that the constructor takes, too."""
PIXELS = ("mean", "std", "crop_pct", "interpolation")
"""Options of how pictures become pixels, as timm names them."""
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming")


@dataclass(frozen=True)
class ModelSpec:
    """One file of ``conf/model``.

    Attributes:
        name: what ``model=`` says. timm: timm's name with its pretrained tag. hf: Hugging Face's
            repository of a CLIP model; neither = a model of this package.
        labels: see `Labels`; ``auto`` = wnid for 1000 classes, folders where other classes have
            names or their number is asked for, else none.
        classes: names of the classes in the order of their numbers, or a file with one a line; they
            decide which class of the data is which, and ``labels`` is folders. None = as the
            checkpoint or the head says, if it does.
        description: one line for the list of models. source: where the weights come from.
        kwargs: passed on to the model's constructor.
        head: file of a zero-shot classifier for a CLIP tower (`asap_eval.models.zero_shot`).
        family: ``image``, or a kind of vision-language model (``hf`` is then its repository).
        num_classes: outputs of the classifier; None = as many as ``classes`` names, or the
            architecture's own.
        img_size: pixels of a side, or height and width; position embeddings of the weights are
            resampled, and the record says so. mean, std: three numbers each, of pixels in 0..1.
            crop_pct: share of the resized image's side that is kept. interpolation: of the
            resizing. None of these = as the weights were evaluated by those who trained them.
        device_map: ``auto`` = layers of a vision-language model over all visible GPUs; None = one.
    """

    name: str
    timm: str | None = None
    labels: str = "auto"
    description: str = ""
    source: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    hf: str | None = None
    head: str | None = None
    family: str = "image"
    classes: str | Sequence[str] | None = None
    num_classes: int | None = None
    img_size: int | Sequence[int] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    device_map: str | None = None

    def __post_init__(self) -> None:
        if self.family not in get_args(Family):
            raise unknown("value of model.family", str(self.family), get_args(Family))
        if self.labels not in ("auto", *get_args(Labels)):
            raise unknown("value of model.labels", str(self.labels), ("auto", *get_args(Labels)))
        given = [name for name in (*OWN_SHAPE, *PIXELS) if getattr(self, name) is not None]
        if given and (self.vlm or self.hf is not None):
            raise BadValueError(
                f"model.{given[0]} is for timm's image models; '{self.name}' takes its pictures as "
                "its repository says."
            )
        if self.device_map is not None and not self.vlm:
            raise BadValueError(
                f"model.device_map={self.device_map} spreads a language model over GPUs; "
                f"'{self.name}' is an image model and runs on one. Leave it out."
            )
        check_shape_and_pixels(self)

    @property
    def vlm(self) -> bool:
        """Whether this is a vision-language model (`asap_eval.models.vlm` loads those)."""
        return self.family != "image"

    @property
    def params(self) -> dict[str, Any]:
        """What else than its name says which model this is, for a job."""
        given = {name: getattr(self, name) for name in (*OWN_SHAPE, *PIXELS, "device_map")}
        return {
            **{name: getattr(self, name) for name in ("timm", "hf", "head", "family", "labels")},
            "classes": self.classes if isinstance(self.classes, str | None) else [*self.classes],
            "kwargs": dict(self.kwargs),
            **{name: plain(value) for name, value in given.items() if value is not None},
        }

    @property
    def options(self) -> dict[str, Any]:
        """Keywords for the constructor.

        Raises:
            BadValueError: one of them is given in two ways.
        """
        given = {name: value for name in OWN_SHAPE if (value := getattr(self, name)) is not None}
        if twice := [name for name in given if name in self.kwargs]:
            raise BadValueError(
                f"model.{twice[0]} and model.kwargs.{twice[0]} mean the same: give one of them."
            )
        named = len(self.classes) if isinstance(self.classes, Sequence) and self.timm else None
        if isinstance(self.classes, str) and self.timm:
            named = len(given_names(self.classes))
        known = {**self.kwargs, **given}
        return known if named is None else {"num_classes": named, **known}


def check_shape_and_pixels(spec: ModelSpec) -> None:
    """Raise `BadValueError` where a model's size or pixels are given as something else."""

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value > 0

    def number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def numbers(values: Any, least: float) -> bool:
        listed = isinstance(values, Sequence) and not isinstance(values, str)
        return listed and len(values) == 3 and all(number(v) and v >= least for v in values)

    sides = spec.img_size
    pair = isinstance(sides, Sequence) and len(sides) == 2 and all(map(whole, sides))
    fits = {
        "num_classes": (whole(spec.num_classes), "a whole number >= 1"),
        "img_size": (whole(sides) or pair, "pixels of a side, or [height,width]"),
        "mean": (numbers(spec.mean, 0), "three numbers, [red,green,blue], of pixels in 0..1"),
        "std": (numbers(spec.std, 1e-6), "three numbers above 0, [red,green,blue]"),
        "crop_pct": (number(spec.crop_pct) and 0 < float(spec.crop_pct or 0) <= 1, "a share, 0..1"),
    }
    for name, (right, wanted) in fits.items():
        if (value := getattr(spec, name)) is not None and not right:
            raise BadValueError(f"model.{name}={value}: give {wanted}.")
    if spec.interpolation not in (None, *INTERPOLATIONS):
        raise unknown("value of model.interpolation", str(spec.interpolation), INTERPOLATIONS)


def plain(value: Any) -> Any:
    """A value as JSON has it: a list for any sequence of values."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


@lru_cache(maxsize=1)
def model_specs() -> dict[str, ModelSpec]:
    """Every model of ``conf/model`` by name."""
    from omegaconf import OmegaConf

    specs = {}
    for file in sorted((conf_dir() / "model").glob("*.yaml")):
        content = OmegaConf.to_container(OmegaConf.load(file), throw_on_missing=False)
        spec = _spec(cast(Mapping[str, Any], content))
        if spec.name != file.stem:
            raise BadValueError(f"{file} declares name={spec.name}; it has to be {file.stem}.")
        specs[spec.name] = spec
    return specs


def model_names() -> dict[str, str]:
    """Name and one-line description of every model of ``conf/model``."""
    return {name: spec.description for name, spec in model_specs().items()}


def spec_from(config: Mapping[str, Any]) -> ModelSpec:
    """The spec that a ``model`` config group means, after overrides.

    With ``model.timm=`` overridden the name is timm's, with ``model.hf=`` the repository's, so that
    no record carries a wrong one.
    """
    spec = _spec(config)
    declared = model_specs().get(spec.name)
    if declared is not None and spec.hf not in (None, declared.hf):
        local = Path(str(spec.hf)).expanduser().is_dir()
        return replace(spec, name=spec.hf, source=str(spec.hf) if local else address(str(spec.hf)))
    if declared is not None and spec.num_classes not in (None, IMAGENET_CLASSES):
        # What its file says of ImageNet's classes does not hold for others.
        spec = replace(spec, labels="auto" if spec.labels == "wnid" else spec.labels)
    if declared is None or declared.timm == spec.timm or spec.timm is None:
        return spec
    labels = "auto" if spec.labels == declared.labels else spec.labels
    classes = None if spec.classes == declared.classes else spec.classes
    return replace(
        spec, name=spec.timm, labels=labels, classes=classes, description="", source="timm"
    )


def with_options(name: str, options: Mapping[str, Any]) -> ModelSpec:
    """The spec of a name, with options such as ``num_classes``; see `find` and `spec_from`."""
    found = find(name)
    return spec_from({**vars(found), **options}) if options else found


def _spec(config: Mapping[str, Any]) -> ModelSpec:
    known = [option.name for option in fields(ModelSpec)]
    for key in config:
        if key not in known:
            raise unknown("option of model", str(key), known)
    return ModelSpec(**config)


def find(name: str) -> ModelSpec:
    """The spec of a declared name, or of any name timm knows."""
    import timm

    specs = model_specs()
    if name in specs:
        return specs[name]
    if timm.is_model(name.split(".")[0]):
        return ModelSpec(name, name, source="timm")
    raise unknown("model", name, specs)
