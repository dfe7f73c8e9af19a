"""The small LLaVA models of `asap_eval.testing`, under a short name."""

from __future__ import annotations

import pytest

from asap_eval.testing.llava import (
    NAMES as NAMES,
)
from asap_eval.testing.llava import (
    QUESTIONS as QUESTIONS,
)
from asap_eval.testing.llava import (
    SIZES as SIZES,
)
from asap_eval.testing.llava import (
    generate as generate,
)
from asap_eval.testing.llava import (
    inputs as inputs,
)
from asap_eval.testing.llava import (
    logits as logits,
)
from asap_eval.testing.llava import (
    logits_and_ids as logits_and_ids,
)
from asap_eval.testing.llava import (
    pictures as pictures,
)
from asap_eval.testing.llava import (
    reduced as reduced,
)
from asap_eval.testing.llava import (
    vlm as vlm,
)

on_both = pytest.mark.parametrize("name", NAMES)
