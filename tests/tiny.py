"""The small vision transformers of `asap_eval.testing`, under a short name."""

from __future__ import annotations

from asap_eval.testing.models import (
    CLASSES as CLASSES,
)
from asap_eval.testing.models import (
    HOSTS as HOSTS,
)
from asap_eval.testing.models import (
    PREFIX as PREFIX,
)
from asap_eval.testing.models import (
    WITHOUT_CLS as WITHOUT_CLS,
)
from asap_eval.testing.models import (
    clip as clip,
)
from asap_eval.testing.models import (
    images as images,
)
from asap_eval.testing.models import (
    large as large,
)
from asap_eval.testing.models import (
    lv_vit as lv_vit,
)
from asap_eval.testing.models import (
    output as output,
)
from asap_eval.testing.models import (
    shake as shake,
)
from asap_eval.testing.models import (
    vit as vit,
)
