"""What all criteria share: how numbers from several producers become comparable scores."""

import numpy as np

AGGREGATIONS = {"max": np.max, "mean": np.mean, "sum": np.sum}


def _lamp(scores):
    """Each squared score over the sum of the squares that are not smaller: in (0, 1], last = 1."""
    squares = np.square(scores)
    order = np.argsort(squares, kind="stable")
    not_smaller = np.cumsum(squares[order][::-1])[::-1]
    result = np.empty_like(squares)
    result[order] = squares[order] / np.maximum(not_smaller, 1e-30)
    return result


NORMALIZATIONS = {
    "lamp": _lamp,
    "max": lambda scores: scores / max(np.max(scores), 1e-30),
    "mean": lambda scores: scores / max(np.mean(scores), 1e-30),
    "none": lambda scores: scores,
}


class Criterion:
    """Base of the criteria: subclass it and override `score` (and `observe`, to look at data).

    Args:
        normalize: what each producer's scores are divided by: "none"; "max" (scores in [0, 1], for
            thresholds); "mean" (an average channel has score 1); "lamp" (the square over the sum of
            all squares not smaller: layer-adaptive, Lee et al. 2021, arXiv 2010.07611).
        aggregate: how the vectors of several producers become one: "mean", "max" or "sum".

    Raises:
        ValueError: for another `normalize` or `aggregate`.
    """

    adds_up = False  # whether scores are losses that may be summed, and divided by what is saved

    def __init__(self, normalize="mean", aggregate="mean"):
        self.normalize = known(normalize, NORMALIZATIONS, "normalize")
        self.aggregate = known(aggregate, AGGREGATIONS, "aggregate")

    def for_task(self, task):
        """This criterion for a `Task` that was read from model and data; override to use it."""
        return self

    def check(self, inputs, num_batches):
        """Whether data will do, before anything trains; override to refuse some.

        Args:
            inputs: their first batch, without labels. (Another pass would shift what is shuffled.)
            num_batches: how many there are; negative where nobody knows or they do not end.
        """

    def observe(self, model, groups, data):
        """Look at the model (and data) once; the result is handed to every `score`."""
        return None

    def score(self, model, group, observed):
        """Scores of one group: a list of arrays (num_channels,), >= 0, one from each producer.

        Channels that no layer makes (padding) come without producer, and score 0.
        """
        raise NotImplementedError(f"{type(self).__name__} must override `score`.")

    def __call__(self, model, groups, data=None):
        """Score the prunable groups.

        Args:
            model: the `keras.Model` that the groups were found in; not changed.
            groups: list of `ChannelGroup`; those not prunable are left out.
            data: None, a `tf.data.Dataset` of (inputs, labels) batches, or a tuple of arrays.

        Returns:
            {group name: float32 (num_channels,)}.
        """
        groups = [group for group in groups if group.prunable]
        observed = self.observe(model, groups, data)
        return {
            group.name: self.combine(group, self.score(model, group, observed)) for group in groups
        }

    def combine(self, group, vectors):
        """One float32 vector out of those of several producers."""
        vectors = vectors or [np.zeros(group.num_channels)]
        vectors = [NORMALIZATIONS[self.normalize](vector) for vector in vectors]
        return AGGREGATIONS[self.aggregate](vectors, axis=0).astype(np.float32)


def known(value, choices, name):
    """`value` if it is one of `choices`, else an error that lists them."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in sorted(choices))
        raise ValueError(f"`{name}` is {value!r}; expected one of {listed}.")
    return value
