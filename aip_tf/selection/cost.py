"""What a selection may ask about cost: of the current model, and of the original."""

from aip_tf import _keras
from aip_tf.cost import CostModel


class Cost(CostModel):
    """The `CostModel` of a model, next to that of the original.

    Args:
        model: the `keras.Model` to cut.
        reference: the original if `model` was cut before, with the same layer names; by default
            `model` is the original.
        input_shape: see `find_channel_groups`.

    Attributes:
        model: the model.
        groups: its channel groups.
        original: the `Cost` of the reference; the object itself if there is none.
    """

    def __init__(self, model, reference=None, input_shape=None):
        super().__init__(model, input_shape)
        self.model = model
        same = reference is None or reference is model
        self.original = self if same else Cost(reference, input_shape=input_shape)

    def layer(self, path):
        """The layer at a path such as "outer/inner"."""
        return _keras.layer_at(self.model, path)

    def original_width(self, group):
        """The width that `group` (of the current model) had in the original, in its channels.

        Told by layer names, because the identity of groups may change with a cut: in filters of the
        group's first producer. A producer with several groups (a convolution split into branches)
        is told apart by group name or, failing that, divided in proportion.

        Returns:
            float, at least `group.num_channels`.

        Raises:
            ValueError: if the reference has no such layer.
        """
        if self.original is self or not group.producers:
            return float(group.num_channels)
        producer = group.producers[0]
        before = [g for g in self.original.groups if producer in g.producers]
        if not before:
            raise ValueError(
                f"The reference has no channels made by layer {producer!r}, which the model has; "
                "expected the original network, whose layer names a cut does not change."
            )
        named = [g for g in before if g.name == group.name]
        now = [group] if named else [g for g in self.groups if producer in g.producers]
        lost = _num_filters(named or before, producer) / _num_filters(now, producer)
        return group.num_channels * max(1.0, lost)


def _num_filters(groups, producer):
    """How many filters of the layer `producer` make channels of the groups."""
    members = (m for g in groups for m in g.members if m.layer == producer)
    counts = {}
    for member in members:
        if member.role == "producer":
            key = member.variable, member.axis
            counts[key] = counts.get(key, 0) + len(member.indices)
    return max(counts.values())
