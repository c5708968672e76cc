"""`.keras`: the model as Keras saves it."""

import contextlib
import dataclasses

import keras

from aip_tf.deploy import signature
from aip_tf.deploy.formats.base import Format, Program
from aip_tf.deploy.samples import sized
from aip_tf.deploy.source import Source


@dataclasses.dataclass(frozen=True)
class KerasFile(Format):
    """`model.keras`, not compiled; open sizes stay open. Attributes as those of every format."""

    name = "keras"
    file_name = "model.keras"
    runtime = "Keras"

    def write(self, source, path):
        """See `Format.write`."""
        with _uncompiled(source.model):
            source.model.save(path)

    def open(self, path):
        """See `Format.open`."""
        model = keras.saving.load_model(path, compile=False)
        names = signature.input_names(model)
        source = Source(model, sized(model, None), path.parent)
        outputs = signature.outputs_by_name(keras.tree.map_structure(_described, _outputs(model)))
        inputs = {names[signature.name_of(x)]: _described(x).pair for x in model.inputs}
        outputs = {name: leaf.pair for name, leaf in outputs.items()}
        return Program(source.answer, inputs, outputs, source.batch_size)


@contextlib.contextmanager
def _uncompiled(model):
    """A model without optimizer and loss: a file to predict with is half the size, and loads
    where the loss is not known.
    """
    held = {name: vars(model)[name] for name in ("compiled", "optimizer") if name in vars(model)}
    try:
        vars(model).update(dict.fromkeys(held))
        yield
    finally:
        vars(model).update(held)


class _Described:
    """A dtype and a shape that no structure is read into."""

    def __init__(self, tensor):
        self.pair = keras.backend.standardize_dtype(tensor.dtype), tuple(tensor.shape)


def _described(tensor):
    return _Described(tensor)


def _outputs(model):
    return model.outputs[0] if isinstance(model, keras.Sequential) else model.output
