"""Data as `fit` takes it: every form gives the same batches, every slip has a helpful word."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from game_models import small_cnn, small_data, two_headed
from keras import layers

import aip_tf
from aip_tf.datasets import adapt
from aip_tf.datasets.adapt import as_dataset
from aip_tf.datasets.passes import counted

X, Y = np.arange(12.0).reshape(6, 2), np.arange(6) % 3


class Batches(keras.utils.PyDataset):
    """Two batches of three."""

    def __init__(self, size=2):
        super().__init__()
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index >= 2:
            raise IndexError
        part = slice(3 * index, 3 * index + 3)
        return X[part], Y[part]


class Loader:
    """What a PyTorch DataLoader looks like."""

    def __len__(self):
        return 2

    def __iter__(self):
        return iter([Batches()[0], [*Batches()[1]]])


def endless():
    while True:
        yield from Loader()


def labels(dataset):
    return [int(y) for _, batch in dataset for y in batch]


DATASET = tf.data.Dataset.from_tensor_slices((X, Y)).batch(3)


@pytest.mark.parametrize(
    "data",
    [(X, Y), (X, list(Y)), DATASET, Batches(), Loader()],
    ids=["arrays", "list", "dataset", "py_dataset", "loader"],
)
def test_every_form_gives_all_samples_in_every_epoch(data):
    dataset = as_dataset(data, shuffle=False)
    for _ in range(2):
        assert labels(dataset) == list(Y)
    assert int(dataset.cardinality()) == len(list(dataset))
    assert labels(as_dataset(data)) != [] and sorted(labels(as_dataset(data))) == sorted(Y)


@pytest.mark.parametrize(
    "data",
    [endless, lambda: DATASET.repeat(), lambda: DATASET, lambda: Batches()],
    ids=["generator", "infinite", "finite", "py_dataset"],
)
def test_epochs_of_given_length_go_on_where_the_last_one_ended(data):
    dataset = as_dataset(data(), 3, shuffle=False)
    assert int(dataset.cardinality()) == 3
    first, second = labels(dataset), labels(dataset)
    assert first == [*Y, *Y[:3]] and second == [*Y[3:], *Y]


@pytest.mark.parametrize("data", [endless, lambda: DATASET.repeat(), lambda: DATASET])
def test_a_validation_sees_the_same_batches_every_time(data):
    dataset = as_dataset(data(), 3, shuffle=False, restart=True)
    assert int(dataset.cardinality()) == 3
    assert labels(dataset) == labels(dataset) == [*Y, *Y[:3]]


def test_lists_and_dictionaries_stay_apart():
    dataset = as_dataset(([X, {"a": X}], {"y": Y}, np.ones(6)), shuffle=False)
    (first, second), outputs, weights = next(iter(dataset))
    assert first.shape == second["a"].shape == (6, 2)
    assert outputs["y"].shape == weights.shape == (6,)
    assert first.dtype == "float32"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:4]), "unequal length: 6 inputs, 4 labels"),
        (([X, X[:5]], Y), "6 inputs 0, 5 inputs 1, 6 labels"),
        ((X[:0], Y[:0]), "without a single sample"),
        ((X, 3), "a single number"),
        ((X, np.array([None] * 6)), "arrays that hold NoneType"),
        ((tf.ragged.constant([[1.0], []]), Y[:2]), "arrays that hold RaggedTensor"),
        (tf.data.Dataset.from_tensors(tf.sparse.eye(3)), "batches hold SparseTensors"),
        ((X, Y, X, Y), "of type tuple. Give inputs and labels"),
        (X, r"as one tuple, prune\(model, \(x, y\).*prune\(model, \(x,\)\)"),
        ([X, Y], "as one tuple"),
        ({"image": X}, r"prune\(model, \(x,\)\)"),
        (endless(), "train_data of unknown length.*steps_per_epoch"),
        (endless, "of type function. Call it"),
        (iter(()), "without a single batch"),
        (Batches(0), "without a single batch"),
        (DATASET.take(0), "without a single batch"),
        (DATASET.repeat(), "infinite length"),
        (DATASET.filter(lambda x, y: True), "unknown length"),
        ("digits", "of type str"),
        (iter([X]), r"batches are ndarray\. Expected .*\(inputs,\)"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(data, message):
    with pytest.raises(ValueError, match=f"train_data.*{message}|{message}"):
        as_dataset(data)


def test_a_first_batch_that_fails_or_is_not_there_is_named():
    failing = DATASET.map(lambda x, y: (tf.reshape(x, tf.shape(x) + 1), y))
    with pytest.raises(ValueError, match="first batch failed"):
        adapt.first_batch(failing)
    lying = DATASET.take(0).apply(tf.data.experimental.assert_cardinality(5))
    for look in (adapt.first_batch, lambda dataset: counted(dataset).identity):
        with pytest.raises(ValueError, match=r"expected to contain 5 elements|of 5 that it says"):
            look(lying)


@pytest.mark.parametrize("form", [Y, Y[:, None], np.eye(3)[Y]], ids=["flat", "column", "one_hot"])
def test_class_weights_are_sample_weights(form):
    dataset = adapt.weighted(as_dataset((X, form), shuffle=False), {0: 2.0, 1: 0.5})
    _, _, weights = next(iter(dataset))
    np.testing.assert_array_equal(weights, [2.0, 0.5, 1.0] * 2)
    with pytest.raises(ValueError, match="one class for each sample"):
        adapt.weighted(dataset, {0: 1.0})


def cut_once(epoch):
    return epoch == 0, 0.3


def pruned(model, data, **settings):
    settings = {"epochs": 2, "transfers": [], "recalibration_batches": 0} | settings
    recovery = aip_tf.Recovery(**settings)
    return aip_tf.prune(model, data, schedule=cut_once, criterion="taylor", recovery=recovery)[0]


def test_prune_takes_bytes_from_a_generator_and_weighs_classes():
    images, classes = small_data(8)
    images = (images * 255).astype("uint8")

    def batches():
        while True:
            yield images, classes

    student = pruned(small_cnn(), batches(), steps_per_epoch=2, class_weight={0: 2.0})
    assert student.count_params() < small_cnn().count_params()


def test_prune_takes_arrays_for_several_outputs():
    images, classes = small_data(8)
    student = pruned(two_headed(), (images, [classes, (classes > 1)[:, None] * 1.0]))
    assert student.count_params() < two_headed().count_params()


class Subclassed(keras.Model):
    """Two answers by name, which only a call shows."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = keras.layers.Conv2D(8, 3), keras.layers.GlobalAveragePooling2D()
        self.kind = keras.layers.Dense(4)
        self.alive = keras.layers.Dense(1, "sigmoid")

    def call(self, x):
        x = self.pool(keras.ops.relu(self.conv(x)))
        return {"kind": self.kind(x), "alive": self.alive(x)}


@pytest.mark.parametrize("compiled", [True, False])
def test_prune_takes_a_subclassed_model_and_labels_by_name(compiled):
    images, classes = small_data(8)
    model = Subclassed()
    model(images[:1])
    if compiled:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(loss={"kind": loss, "alive": "binary_crossentropy"})
    student = pruned(model, (images, {"kind": classes, "alive": (classes > 1)[:, None] * 1.0}))
    assert student.count_params() < model.count_params()


def test_prune_says_how_to_give_inputs_and_labels():
    with pytest.raises(ValueError, match=r"prune\(model, \(x, y\)"):
        aip_tf.prune(small_cnn(), *small_data(8))


def test_a_wrong_number_of_batches_is_named():
    data = tf.data.Dataset.from_tensor_slices(small_data(8)).batch(4)
    data = data.apply(tf.data.experimental.assert_cardinality(2)).take(1)
    data = data.apply(tf.data.experimental.assert_cardinality(3))
    with pytest.raises(
        ValueError, match=r"batch 2 of the epoch: .*3 elements but contained only 1"
    ):
        pruned(small_cnn(), data)


def test_a_generator_that_ends_early_is_told_how_many_are_needed():
    batches = (small_data(4) for _ in range(3))
    recovery = aip_tf.Recovery(epochs=2, steps_per_epoch=2, transfers=[])
    with pytest.raises(ValueError, match=r"batch 2 of the epoch.*epochs x steps_per_epoch batches"):
        aip_tf.prune(small_cnn(), batches, recovery=recovery)


def test_a_look_at_a_generator_gives_the_first_batch_back():
    batches = ((np.full((2, 3), i, "float32"), np.zeros(2)) for i in range(9))
    data = as_dataset(batches, steps=3)
    looks = [adapt.first_batch(data)[0][0, 0] for _ in range(2)]
    passes = [[int(x[0, 0]) for x, _ in data] for _ in range(2)]
    assert looks == [0, 0] and passes == [[0, 1, 2], [3, 4, 5]]


def test_a_generator_of_just_the_batches_that_training_needs_is_enough():
    """Scores, refits and statistics look at many batches; none is lost to training."""
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(logs["loss"]))

    rng = np.random.default_rng(0)
    given = [(rng.normal(size=(4, 8, 8, 1)).astype("float32"), np.arange(4)) for _ in range(4)]
    for data, steps in ((iter(given), 2), (iter(given[:2]), 1)):
        settings = {"epochs": 2, "steps_per_epoch": steps, "transfers": [], "callbacks": Watch()}
        recovery = aip_tf.Recovery(**settings, recalibration_batches=3)
        aip_tf.prune(small_cnn(), data, schedule=0.3, criterion="taylor", recovery=recovery)
    assert len(seen) == 6


@pytest.mark.parametrize("reader", ["cut", "trade-off", "export"])
def test_a_batch_that_cannot_be_loaded_is_named_whoever_reads_it(reader, tmp_path):
    def batches():
        for number in range(4):
            if number == 2:
                raise OSError("broken photograph")
            yield np.ones((4, 8, 8, 1), "float32"), np.arange(4)

    spec = tf.TensorSpec((None, 8, 8, 1)), tf.TensorSpec((None,), tf.int64)
    data = tf.data.Dataset.from_generator(batches, output_signature=spec)
    data = data.apply(tf.data.experimental.assert_cardinality(4))
    readers = {
        "cut": lambda: aip_tf.prune(small_cnn(), data, criterion="l1"),
        "trade-off": lambda: aip_tf.trade_off(small_cnn(), data, 0.3, criterion="l1", runs=0),
        "export": lambda: aip_tf.export_model(small_cnn(), tmp_path, check_data=data),
    }
    with pytest.raises(ValueError, match=r"failed at batch 3.*: OSError: broken photograph"):
        readers[reader]()


def test_a_size_that_was_asserted_wrongly_is_told():
    data = tf.data.Dataset.from_tensor_slices((np.ones((16, 8, 8, 1)), np.arange(16) % 4)).batch(4)
    data = data.apply(tf.data.experimental.assert_cardinality(9))
    with pytest.raises(ValueError, match="9 elements but contained only 4"):
        aip_tf.prune(small_cnn(), data, criterion="l1")


def test_batches_of_an_unknown_number_of_axes_are_refused():
    data = tf.data.Dataset.from_tensor_slices((np.ones((8, 8, 8, 1), "float32"), np.arange(8) % 4))
    data = data.map(lambda x, y: (tf.numpy_function(lambda v: v, [x], tf.float32), y)).batch(4)
    with pytest.raises(ValueError, match="`set_shape` behind it"):
        aip_tf.prune(small_cnn(), data)


@pytest.mark.parametrize("role", ["training", "validation"])
def test_arrays_are_looked_at_to_their_end(role):
    images, labels = np.ones((300, 8, 8, 1), "float32"), np.arange(300) % 4
    broken = images.copy()
    broken[299, 0, 0, 0] = np.nan
    given = [(broken if role == "training" else images, labels), (broken, labels)]
    with pytest.raises(ValueError, match=rf"In the {role} data: .* first in sample 299"):
        aip_tf.prune(small_cnn(), *given, check_only=True)


def test_sample_weights_of_too_few_axes_are_refused():
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(3, 1, activation="softmax")])
    model.compile(loss="sparse_categorical_crossentropy")
    images, labels = np.ones((8, 8, 8, 1), "float32"), np.arange(512).reshape(8, 8, 8) % 3
    with pytest.raises(ValueError, match=r"Expected \(batch, 8, 8\): one for each position"):
        aip_tf.prune(model, (images, labels, np.ones(8)), check_only=True)


def test_a_model_of_which_nothing_can_go_is_told_from_a_large_amount():
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(4)])
    with pytest.raises(ValueError, match=r"no channel group to cut.*summary"):
        aip_tf.prune(model, (np.ones((8, 8, 8, 1), "float32"), np.arange(8) % 4))


@pytest.mark.parametrize("size", [8, None])
def test_inputs_of_other_names_are_told_whether_sizes_are_known_or_open(size):
    image = keras.Input((size, size, 1), name="image")
    other = keras.Input((4,), name="other")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(image))
    model = keras.Model([image, other], layers.Dense(4)(layers.Concatenate()([x, other])))
    images, labels = np.ones((8, 8, 8, 1), "float32"), np.arange(8) % 4
    with pytest.raises(
        ValueError, match=r"inputs named \['pixels'\]. Expected \['image', 'other'\]"
    ):
        aip_tf.prune(model, ({"pixels": images}, labels), check_only=True)
    with pytest.raises(ValueError, match=r"Received 1 inputs in a batch. Expected 2"):
        aip_tf.prune(model, (images, labels), check_only=True)
