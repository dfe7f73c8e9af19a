"""What of each method is trained and what for: one training, one file."""

from __future__ import annotations

from asap_eval.errors import BadValueError, unknown
from asap_eval.method import method_class, methods
from asap_eval.train.fits.asvit import AsVitFit
from asap_eval.train.fits.asvit_quantiles import AsVitQuantiles
from asap_eval.train.fits.diffrate import DiffRateFit
from asap_eval.train.fits.fit import Fit
from asap_eval.train.fits.learned import LearnedFit
from asap_eval.train.fits.sparsifiner import SparsifinerFit
from asap_eval.train.fits.tosa_reading import TosaFit

FITS: tuple[type[Fit], ...] = (
    LearnedFit,
    SparsifinerFit,
    TosaFit,
    AsVitFit,
    AsVitQuantiles,
    DiffRateFit,
)
"""All trainings; the first of a method is what it gets where ``how`` is left out."""


def fit_of(method: str, how: str | None = None) -> type[Fit]:
    """The training of a method.

    Raises:
        UnknownNameError: no such method or no such way. BadValueError: nothing of it is trained.
    """
    cls = method_class(method)
    found = {fit.how: fit for fit in FITS if issubclass(cls, fit.of)}
    if not found:
        bases = tuple(fit.of for fit in FITS)
        able = [name for name, each in methods().items() if issubclass(each, bases)]
        raise BadValueError(
            f"method={method} has nothing to train; {', '.join(able[:-1])} and {able[-1]} have."
        )
    if how is None:
        return next(iter(found.values()))
    if how not in found:
        raise unknown(f"value of how for method={method}", how, found)
    return found[how]
