"""When to cut and how much: pruning schedules that step in epochs.

A schedule is a callable `step -> (should_prune, amount)`, as in TensorFlow Model Optimization
(tfmot), whose *step is the zero-based index of the epoch just finished*. Amounts are cumulative and
a fraction of the *original* network. `list_cuts` asks a schedule for all its cuts before anything
is trained, so that a schedule that would go wrong late fails early.

The second half of the file says how the learning rate falls between two cuts: plain functions of
the progress since the last cut, because optimiser and learning rate restart after each cut.
"""

import contextlib
import itertools
import math
import numbers
import os
import warnings
from dataclasses import dataclass

from aip_tf.arguments import check, instance, integer, number, shown

__all__ = [
    "Cut",
    "PolynomialDecay",
    "constant",
    "cosine",
    "get",
    "list_cuts",
    "one_shot",
    "step_decay",
]

_EPOCHS = {"epochs": integer(0)}
_MAX_CUTS = 3
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Cut:
    """One cut: after epoch `epoch` (zero-based), `amount` of the original is gone in total.

    Epoch -1 is before the first one: the teacher is trained already.
    """

    epoch: int
    amount: float


def list_cuts(schedule, epochs):
    """List every cut that a schedule makes in a run.

    Args:
        schedule: one of
            a float in (0, 1), the final amount: one cut up to 0.5, two up to 0.75, else three
            (fewer when there are fewer than six epochs), so that up to 0.875 none removes more
            than half of what is left; every cut removes the same share of it, the first before
            anything is trained and the next ones a tenth of the run apart, so that at least half
            of the epochs remain for the final recovery (four fifths in runs of ten and more);
            a tfmot `PruningSchedule`; or any callable `step -> (should_prune, amount)`.
            Steps are epochs. A cut of amount 0 is no cut, as in tfmot.
        epochs: int, the number of epochs of the run; with 0 there is one cut and no training.

    Returns:
        A list of `Cut`, epochs and amounts strictly increasing, the last one being the schedule's
        final amount with at least one epoch left to recover.

    Raises:
        ValueError: if there is no cut, an amount is not in (0, 1), amounts do not increase, the
            final amount is not reached, or a cut falls on the last epoch or beyond the run.

    >>> list_cuts(0.75, epochs=30)
    [Cut(epoch=-1, amount=0.5), Cut(epoch=2, amount=0.75)]
    >>> list_cuts(lambda step: (step in (0, 4), 0.1 * (step + 1)), epochs=10)
    [Cut(epoch=0, amount=0.1), Cut(epoch=4, amount=0.5)]
    """
    epochs = check(_EPOCHS, {"epochs": epochs})["epochs"]
    if isinstance(schedule, numbers.Real) and not isinstance(schedule, bool):
        return _cuts_to(float(schedule), epochs)
    if not callable(schedule):
        raise ValueError(
            f"`schedule` is {shown(schedule)}; expected the final amount (a float in (0, 1)), a "
            "tfmot PruningSchedule, or a callable step -> (should_prune, amount)."
        )
    _check_range(schedule, epochs)
    cuts = _ask(schedule, epochs)
    _check_cuts(schedule, cuts, epochs)
    return _exact_end(schedule, cuts)


def _cuts_to(final, epochs):
    """The timetable behind a plain float: see `list_cuts`."""
    _check_amount("the final amount", final, epoch=None)
    halvings = math.ceil(-math.log2(1 - final) - _TOLERANCE)
    num_cuts = max(1, min(halvings, _MAX_CUTS, epochs // 2))
    spacing = max(1, epochs // 10)
    kept = [(1 - final) ** (round_ / num_cuts) for round_ in range(1, num_cuts)]
    amounts = [round(1 - share, 6) for share in kept] + [final]
    return [Cut(index * spacing - 1, amount) for index, amount in enumerate(amounts)]


def _check_range(schedule, epochs):
    """Refuse what tfmot's attributes give away before any step is asked."""
    begin, end = getattr(schedule, "begin_step", None), getattr(schedule, "end_step", None)
    if end is None:
        return
    if end >= epochs:
        raise ValueError(
            f"{_describe(schedule)} ends after epoch {end}, beyond the run of {epochs} epochs "
            f"(0 to {epochs - 1}). Steps are epochs, not batches: lower `end_step` or train longer."
        )
    if begin == end and hasattr(schedule, "initial_sparsity"):
        raise ValueError(
            f"{_describe(schedule)} begins and ends at the same epoch, so its amount is 0/0 = NaN. "
            "Use `one_shot(amount, epoch)` for a single cut."
        )


def _ask(schedule, epochs):
    cuts = []
    for epoch in range(epochs):
        answer = _answer(schedule, epoch)
        try:
            should_prune, amount = answer
            should_prune, amount = bool(should_prune), _as_float(amount)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{_describe(schedule)} returned {answer!r} for step {epoch}; expected a pair "
                "(should_prune, amount) of a bool and a float."
            ) from error
        if should_prune and amount != 0:
            _check_amount(_describe(schedule), amount, epoch)
            cuts.append(Cut(epoch, amount))
    return cuts


def _answer(schedule, epoch):
    try:
        return schedule(epoch)
    except Exception as error:  # whatever code of the user's may raise
        raise ValueError(
            f"Received schedule={_describe(schedule)}, which fails for step {epoch} with "
            f"{type(error).__name__}: {error}. Expected a callable of one argument, the epoch just "
            "finished, that gives (should_prune, amount)."
        ) from error


def _check_amount(what, amount, epoch):
    # Written so that NaN, for which every comparison is false, fails too.
    if not 0 < amount < 1:
        where = "" if epoch is None else f" after epoch {epoch}"
        raise ValueError(
            f"{what} removes {amount}{where}; expected a fraction of the original between 0 and 1, "
            "both excluded."
        )


def _check_cuts(schedule, cuts, epochs):
    name = _describe(schedule)
    if not cuts:
        raise ValueError(
            f"{name} makes no cut in {epochs} epochs (0 to {epochs - 1}); expected at least one. "
            "Steps are epochs, not batches: check `begin_step`."
        )
    for before, cut in itertools.pairwise(cuts):
        if cut.amount <= before.amount:
            raise ValueError(
                f"{name} removes {cut.amount:g} after epoch {cut.epoch}, not more than the "
                f"{before.amount:g} after epoch {before.epoch}; amounts are cumulative and must "
                "increase. For a single cut use `one_shot(amount, epoch)`."
            )
    final = _final_amount(schedule)
    if final is not None and abs(cuts[-1].amount - final) > _TOLERANCE:
        raise ValueError(
            f"{name} ends with {cuts[-1].amount:g} removed after epoch {cuts[-1].epoch} and never "
            f"reaches its final amount {final:g}. Choose a `frequency` that divides "
            "end_step - begin_step (tfmot's default is 100; ours is 1)."
        )
    if cuts[-1].epoch == epochs - 1:
        raise ValueError(
            f"{name} makes its last cut after epoch {epochs - 1}, the last one, so nothing is left "
            f"to recover in; expected a last cut after epoch {epochs - 2} or before. Train longer "
            "or cut earlier."
        )


def _exact_end(schedule, cuts):
    """tfmot computes in float32: give back the number that the user wrote."""
    final = _final_amount(schedule)
    return cuts if final is None else [*cuts[:-1], Cut(cuts[-1].epoch, final)]


def _final_amount(schedule):
    final = getattr(schedule, "final_sparsity", getattr(schedule, "target_sparsity", None))
    return None if final is None else float(final)


def _as_float(amount):
    return amount if isinstance(amount, float) else round(float(amount), 6)


def _describe(schedule):
    try:
        config = schedule.get_config()["config"]
    except (AttributeError, KeyError, TypeError, NotImplementedError):
        return getattr(schedule, "__name__", type(schedule).__name__)
    arguments = ", ".join(f"{name}={value!r}" for name, value in config.items())
    return f"{type(schedule).__name__}({arguments})"


# Schedules ---------------------------------------------------------------------------------------


_SHARE = number("a fraction of the original, in [0, 1)", 0, math.nextafter(1, 0))
_POLYNOMIAL = {
    "initial_sparsity": _SHARE,
    "final_sparsity": _SHARE,
    "begin_step": integer(0),
    "end_step": integer(0),
    "frequency": integer(1),
    "power": number("a number > 0", above=0),
}


def PolynomialDecay(  # noqa: N802
    initial_sparsity, final_sparsity, begin_step, end_step, frequency=1, power=1.0
):
    """Amounts that grow from `initial_sparsity` to `final_sparsity`: tfmot's `PolynomialDecay`.

    amount(step) = final + (initial - final) * (1 - (step - begin) / (end - begin)) ** power,
    with a cut every `frequency` epochs from `begin_step` to `end_step`, both included. tfmot's own
    defaults are made for batches (frequency 100) and for single weights (power 3, with which the
    last rounds remove almost nothing); ours are one epoch and a straight line.

    Args:
        initial_sparsity, final_sparsity: fractions of the original removed at the first and at the
            last cut, in [0, 1).
        begin_step, end_step: epochs (zero-based) after which the first and the last cut come.
        frequency: epochs between two cuts; must divide `end_step - begin_step`.
        power: exponent; 1 is a straight line.

    Returns:
        A `tfmot.sparsity.keras.PolynomialDecay`.

    The timetable of AIP on ImageNet (arXiv 2108.13591, section 4):

    >>> schedule = PolynomialDecay(0.10, 0.4555, begin_step=0, end_step=16, frequency=4)
    >>> [cut.epoch for cut in list_cuts(schedule, epochs=90)]
    [0, 4, 8, 12, 16]
    """
    check(_POLYNOMIAL, locals())
    return _tfmot_schedules().PolynomialDecay(
        initial_sparsity, final_sparsity, begin_step, end_step, power=power, frequency=frequency
    )


def one_shot(amount, epoch=0):
    """A single cut of `amount` (in (0, 1)) after epoch `epoch`, as a tfmot `ConstantSparsity`.

    >>> list_cuts(one_shot(0.5), epochs=10)
    [Cut(epoch=0, amount=0.5)]
    """
    check({"amount": _SHARE, "epoch": integer(0)}, locals())
    return _tfmot_schedules().ConstantSparsity(
        amount, begin_step=epoch, end_step=epoch, frequency=1
    )


def _tfmot_schedules():
    """Import tfmot without letting Keras 2 in; the only place that imports it.

    tfmot sets TF_USE_LEGACY_KERAS=1, which would turn a `tf.keras` that nobody has used yet, and
    that of every child process, into Keras 2. So `tf.keras` is resolved first and the variable
    restored afterwards.
    """
    import tensorflow as tf

    _ = tf.keras.layers
    with _kept_environment("TF_USE_LEGACY_KERAS"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorflow_model_optimization.sparsity import keras as schedules
    return schedules


@contextlib.contextmanager
def _kept_environment(name):
    before = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


# Learning rate between two cuts ------------------------------------------------------------------


def constant(progress):
    """Factor 1: the base rate all the way."""
    return 1.0


def cosine(progress):
    """Half a cosine from 1 to 0: factor = (1 + cos(pi * progress)) / 2.

    Args:
        progress: float in [0, 1), the share of the epochs between this cut and the next one (or
            the end) that is over.

    Returns:
        float, the factor of the base learning rate.

    >>> cosine(0.0), round(cosine(0.5), 3)
    (1.0, 0.5)
    """
    return (1 + math.cos(math.pi * progress)) / 2


_STEPS = {
    "boundaries": instance((list, tuple), "increasing shares of the epochs, such as (0.5, 0.75)"),
    "factor": number("a number in (0, 1], such as 0.1", most=1, above=0),
}


def step_decay(boundaries=(0.5, 68 / 90), factor=0.1):
    """Multiply the rate by `factor` at each boundary; the defaults are AIP's on ImageNet.

    Args:
        boundaries: increasing floats in (0, 1), shares of the epochs since the last cut. The
            default is epochs 45 and 68 of 90 (arXiv 2108.13591).
        factor: float in (0, 1].

    Returns:
        A function of the progress (float in [0, 1)) that returns the factor of the base rate.

    Raises:
        ValueError: if boundaries or factor are outside these ranges.

    >>> decay = step_decay()
    >>> [round(decay(epoch / 90), 4) for epoch in (0, 44, 45, 67, 68, 89)]
    [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """
    check(_STEPS, locals())
    boundaries = tuple(boundaries)
    in_range = all(isinstance(x, numbers.Real) and 0 < x < 1 for x in boundaries)
    if not in_range or list(boundaries) != sorted(set(boundaries)):
        raise ValueError(
            f"`boundaries` is {boundaries}; expected increasing shares of the epochs between two "
            "cuts, each in (0, 1), for example (0.5, 0.75)."
        )

    def decay(progress):
        return factor ** sum(progress >= boundary for boundary in boundaries)

    return decay


_DECAYS = {"constant": constant, "cosine": cosine, "step_decay": step_decay()}


def get(identifier):
    """Look a learning-rate decay up: a name ("constant", "cosine", "step_decay") or a callable.

    Raises:
        ValueError: for an unknown name (the message lists the known ones) or another type.

    >>> get("cosine")(0.0)
    1.0
    """
    if callable(identifier):
        return identifier
    if isinstance(identifier, str) and identifier in _DECAYS:
        return _DECAYS[identifier]
    known = ", ".join(repr(name) for name in sorted(_DECAYS))
    raise ValueError(
        f"Unknown learning-rate decay {identifier!r}; expected one of {known}, or a callable "
        "progress in [0, 1) -> factor of the base learning rate."
    )
