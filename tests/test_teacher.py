"""Loading teachers from everything that can be named, and training one that may be killed."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from aip_tf import datasets, zoo
from aip_tf.teacher import load_model, train_teacher


@pytest.fixture(scope="module")
def data():
    """Four batches of random images."""
    images, labels = np.random.default_rng(0).random((32, 8, 8, 1), np.float32), np.arange(32) % 10
    return datasets.from_arrays((images, labels), (images, labels), batch_size=8)


def tiny(width=8):
    """Traces in a moment, and has what a checkpoint can forget: moving statistics, momentum."""
    image = keras.layers.Input((8, 8, 1), name="image")
    x = keras.layers.Flatten()(image)
    x = keras.layers.Dense(width, "relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(image, keras.layers.Dense(10)(x), name="tiny")


@pytest.fixture
def small():
    keras.utils.set_random_seed(0)
    return tiny()


class KilledError(Exception):
    pass


class KillDuring(keras.callbacks.Callback):
    """Stops the run in the middle of an epoch, as a kill would."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch
        self.epochs_seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs_seen.append(epoch)

    def on_train_batch_end(self, batch, logs=None):
        if self.epochs_seen[-1] == self.epoch and batch == 2:
            raise KilledError


def seeded(width=8):
    keras.utils.set_random_seed(0)
    return tiny(width)


def test_a_killed_training_ends_as_if_it_had_not_been(tmp_path):
    """Shuffling, augmentation, dropout, momentum and decay go on where they were."""
    pair = np.random.default_rng(0).random((32, 8, 8, 1), np.float32), np.arange(32) % 10

    def run(callbacks=(), **arguments):
        keras.utils.set_random_seed(0)
        data = datasets.from_arrays(pair, pair, batch_size=8, augment=datasets.augment.pad_crop(1))
        return train_teacher(seeded(), data, 4, callbacks=callbacks, **arguments).get_weights()

    straight = run()
    with pytest.raises(KilledError):
        run([KillDuring(2)], checkpoint_dir=tmp_path)
    for ours, theirs in zip(run(checkpoint_dir=tmp_path), straight, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_finished_training_is_loaded_and_another_one_refused(data, tmp_path):
    (tmp_path / ".aip_tf_unfinished_1.npz").write_bytes(b"killed while writing")
    watch = KillDuring(None)
    teacher = train_teacher(seeded(), data, 2, checkpoint_dir=tmp_path, callbacks=[watch])
    assert watch.epochs_seen == [0, 1]
    finished = train_teacher(seeded(), data, 2, checkpoint_dir=tmp_path, callbacks=[watch])
    assert watch.epochs_seen == [0, 1]
    for ours, theirs in zip(teacher.get_weights(), finished.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not list(tmp_path.rglob(".aip_tf_unfinished_*"))
    for model, epochs, word in [
        (seeded(), 3, "epochs 2 there, 3 now"),
        (seeded(16), 2, "architecture"),
        (tiny(), 2, "weights"),  # other initial weights, where a seed says what they would be
    ]:
        with pytest.raises(ValueError, match=rf"(?s)holds a teacher.*{word}.*drops 2 epochs"):
            train_teacher(model, data, epochs, checkpoint_dir=tmp_path)
    train_teacher(seeded(16), data, 2, checkpoint_dir=tmp_path, callbacks=[watch], overwrite=True)
    assert watch.epochs_seen == [0, 1, 0, 1]


def test_the_teacher_comes_back_compiled_with_its_starting_learning_rate(data, small):
    teacher = train_teacher(small, data, 1)
    assert teacher is small
    assert teacher.compiled
    assert isinstance(teacher.loss, keras.losses.SparseCategoricalCrossentropy)
    assert teacher.loss.from_logits
    assert float(teacher.optimizer.learning_rate) == pytest.approx(0.1)
    assert int(teacher.optimizer.iterations) == 0
    assert set(teacher.evaluate(data.test, return_dict=True, verbose=0)) == {"loss", "accuracy"}


def test_a_softmax_at_the_end_is_noticed(data, small):
    outputs = keras.layers.Softmax()(small.output)
    teacher = train_teacher(keras.Model(small.input, outputs), data, 1)
    assert not teacher.loss.from_logits


def test_a_compiled_model_keeps_loss_and_metrics(data, small):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metric = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
    small.compile("adam", loss, metrics=[metric])
    teacher = train_teacher(small, data, 1, optimizer=keras.optimizers.Adam(1e-3), decay="constant")
    assert teacher.loss is loss
    assert isinstance(teacher.optimizer, keras.optimizers.Adam)
    assert "top2" in teacher.evaluate(data.test, return_dict=True, verbose=0)


def test_learning_rate_falls_along_a_cosine_unless_the_optimizer_brings_its_own(data):
    rates = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: rates.append(float(optimizer_of.learning_rate))
    )
    optimizer_of = None

    class Remember(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            nonlocal optimizer_of
            optimizer_of = self.model.optimizer

    own = keras.optimizers.schedules.ExponentialDecay(0.05, 10, 0.5)
    for optimizer, last in [
        ("sgd", 0.05 * (1 + np.cos(0.75 * np.pi))),
        (keras.optimizers.SGD(own), 0.05 * 0.5 ** (4 / 10)),
    ]:
        model = tiny()
        train_teacher(model, data, 1, optimizer=optimizer, callbacks=[Remember(), watch])
        assert rates[-1] == pytest.approx(last, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": tiny}, "call the builder first"),
        ({"data": None}, "`train` and `test`"),
        ({"epochs": 0}, "integer, 1 to 1000000"),
        ({"decay": "linear"}, "linear"),
    ],
)
def test_unhappy_arguments_of_training(data, small, change, message):
    arguments = {"model": small, "data": data, "epochs": 1, **change}
    with pytest.raises(ValueError, match=message):
        train_teacher(**arguments)


@pytest.mark.parametrize("how", ["nan", "diverging"])
def test_a_training_that_goes_wrong_ends_at_once_and_leaves_nothing(how, data, small, tmp_path):
    optimizer = "sgd"
    if how == "nan":
        images, labels = (
            np.random.default_rng(0).random((32, 8, 8, 1), np.float32),
            np.arange(32) % 10,
        )
        images[20, 0, 0, 0] = np.nan
        batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
        data = SimpleNamespace(train=batches, test=batches)
        message = "inputs at training step 3 hold NaN"
    else:
        optimizer, message = keras.optimizers.SGD(1e30), "training step .*lower the learning rate"
    with pytest.raises(ValueError, match=message):
        train_teacher(small, data, 2, optimizer=optimizer, checkpoint_dir=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".npz"]


def test_a_teacher_takes_data_as_fit_does(small):
    images, labels = np.random.default_rng(0).random((32, 8, 8, 1), np.float32), np.arange(32) % 10
    data = SimpleNamespace(train=(images, np.eye(10)[labels]), test=(images, np.eye(10)[labels]))
    teacher = train_teacher(small, data, 1)
    assert isinstance(teacher.loss, keras.losses.CategoricalCrossentropy)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_teacher_reaches_98_percent(seed):
    keras.utils.set_random_seed(seed)
    data = datasets.digits(seed=seed)
    teacher = train_teacher(zoo.digits_resnet(), data, 40)
    assert teacher.evaluate(data.test, verbose=0)[1] >= 0.98


def test_load_model_understands_files_names_builders_and_models(tmp_path):
    small = zoo.digits_resnet(width=4)
    small.save(tmp_path / "student.keras")
    small.save_weights(tmp_path / "w.weights.h5")
    x = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    sources = [
        load_model(tmp_path / "student.keras"),
        load_model(str(tmp_path / "student.keras")),
        load_model("digits_resnet", tmp_path / "w.weights.h5", width=4),
        load_model(zoo.digits_resnet, tmp_path / "w.weights.h5", width=4),
        load_model(zoo.digits_resnet(width=4), tmp_path / "w.weights.h5"),
    ]
    for model in sources:
        np.testing.assert_array_equal(model(x), small(x))


def test_load_model_finds_the_keras_twin_of_a_saved_model(small, tmp_path):
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "saved_model.pb").touch()
    with pytest.raises(ValueError, match="found 0 of them"):
        load_model(tmp_path / "saved_model")
    small.save(tmp_path / "student.keras")
    assert load_model(tmp_path / "saved_model").name == "tiny"
    small.save(tmp_path / "teacher.keras")
    with pytest.raises(ValueError, match="found 2 of them"):
        load_model(tmp_path / "saved_model")


def test_load_model_takes_keras_applications_by_name():
    model = load_model("MobileNet", alpha=0.25, classes=10, input_shape=(32, 32, 3))
    assert model.output_shape == (None, 10)
    builder = load_model(
        keras.applications.MobileNet, alpha=0.25, classes=10, input_shape=(32, 32, 3)
    )
    assert builder.count_params() == model.count_params()


def test_load_model_on_the_pretrained_mobilenet(shared_data):
    weights = shared_data / "models" / "imagenet_mobilenet_v1_0.25_224.weights.h5"
    data = datasets.image_folder(
        shared_data / "imagenet_sample",
        batch_size=50,
        validation_fraction=0.1,
        views=datasets.Views(crop_fraction=1.0),
    )
    model = load_model("MobileNet", weights, alpha=0.25)
    right = [
        np.argmax(model(images), axis=-1) == labels
        for images, labels in data.test.as_numpy_iterator()
    ]
    # 56.4% of all 1,000; a standard deviation of 5 points on 100 of them.
    assert 0.42 < np.mean(right) < 0.71


def test_unhappy_sources(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        load_model("resnet57")
    with pytest.raises(ValueError, match="source must be"):
        load_model(3)
    (tmp_path / "broken.keras").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="Keras cannot load"):
        load_model(tmp_path / "broken.keras")
