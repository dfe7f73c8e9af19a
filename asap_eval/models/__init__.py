"""Models by name: what they are, their weights, and the transform that goes with the weights."""

from asap_eval.models.spec import ModelSpec, model_names, model_specs, spec_from
from asap_eval.models.vlm import LoadedVlm, load_vlm
from asap_eval.models.weights import WeightsInfo
from asap_eval.models.zoo import LoadedModel, load_model

__all__ = [
    "LoadedModel",
    "LoadedVlm",
    "ModelSpec",
    "WeightsInfo",
    "load_model",
    "load_vlm",
    "model_names",
    "model_specs",
    "spec_from",
]
