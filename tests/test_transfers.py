"""Each transfer alone: what it computes, what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from game_models import small_cnn, small_data, two_headed

from aip_tf import losses
from aip_tf.channels import find_channel_groups, prune_channels
from aip_tf.channels.ancestry import kept_channels
from aip_tf.game import (
    AdversarialDistiller,
    AdversarialTransfer,
    AttentionTransfer,
    FeatureTransfer,
    OutputTransfer,
    build_discriminator,
)
from aip_tf.game.recipe import default_transfers
from aip_tf.game.taps import Reader, Reading, find_feature_taps
from aip_tf.game.views import Scale

IMAGES, _ = small_data(8)


def read(model, transfer=None):
    paths = (transfer.taps, transfer.energies) if transfer else ()
    return Reader(model, *paths)(IMAGES, training=False)[1]


def play(transfer, teacher, student):
    """The bound transfer's move, and its gradient with respect to the student's last kernel."""
    bound = transfer.bind(teacher, student)
    kernel = student.get_layer("out").kernel
    with tf.GradientTape() as tape:
        move = bound.play(read(teacher, bound), read(student, bound))
    return move, tape.gradient(move.loss, kernel.value), bound


def with_softmax(model):
    copy = keras.models.clone_model(model)
    outputs = keras.layers.Softmax()(copy.output)
    copy.set_weights(model.get_weights())
    return keras.Model(copy.input, outputs)


# --- output -------------------------------------------------------------------------------------


def test_output_transfer_is_the_mean_divergence():
    teacher, student = small_cnn(seed=1), small_cnn(seed=2)
    move, gradient, _ = play(OutputTransfer(temperature=3), teacher, student)
    expected = np.mean(losses.output_loss(teacher(IMAGES), student(IMAGES), 3.0))
    np.testing.assert_allclose(move.loss, expected, rtol=1e-5)
    assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("both", [True, False])
def test_no_double_softmax(both):
    teacher, student = small_cnn(seed=1), small_cnn(seed=2)
    expected = play(OutputTransfer(), teacher, student)[0].loss
    softmax_student = with_softmax(student) if both else student
    softmax_move = play(OutputTransfer(), with_softmax(teacher), softmax_student)[0]
    np.testing.assert_allclose(softmax_move.loss, expected, rtol=1e-3)


def test_from_logits_overrules_recognition():
    teacher, student = small_cnn(seed=1, last="softmax"), small_cnn(seed=2, last="softmax")
    move, _, _ = play(OutputTransfer(1.0, from_logits=True), teacher, student)
    expected = np.mean(losses.output_loss(teacher(IMAGES), student(IMAGES)))
    np.testing.assert_allclose(move.loss, expected, rtol=1e-5)


def test_several_outputs_are_summed_and_can_be_chosen():
    teacher, student = two_headed(seed=1), two_headed(seed=2)

    def loss(outputs):
        bound = OutputTransfer(outputs=outputs).bind(teacher, student)
        return float(bound.loss(read(teacher), read(student)))

    assert loss(None) == pytest.approx(loss("kind") + loss(1), rel=1e-5)
    expected = np.mean(losses.binary_output_loss(teacher(IMAGES)[1], student(IMAGES)[1], 4.0))
    assert loss(["alive"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("outputs", ["nothing", 2, -1, []])
def test_unknown_outputs_are_refused(outputs):
    with pytest.raises(ValueError, match="Received outputs="):
        OutputTransfer(outputs=outputs).bind(two_headed(seed=1), two_headed(seed=2))


def test_what_is_elsewhere_on_a_map_of_shares_is_seen():
    """A softmax along the last axis would see two keypoints, and not where they are."""
    image = keras.Input((4, 4, 1))
    places = keras.layers.Reshape((16, 2))(keras.layers.Conv2D(2, 1)(image))
    model = keras.Model(image, keras.layers.Softmax(axis=1)(places))
    at = [np.eye(16, dtype="float32")[None, :, [place, place]] for place in (3, 9)]
    bound = OutputTransfer().bind(model, model)
    assert float(bound.loss(Reading([at[0]]), Reading([at[1]]))) > 0.01


def picked():
    """Logits, and beside them what was made of them: a number of a class, a truth."""
    trunk = small_cnn(seed=0)
    logits = trunk.output
    found = {"whole": keras.ops.argmax(logits, -1), "is": logits > 0, "logits": logits}
    return keras.Model(trunk.input, found)


@pytest.mark.parametrize("transfer", [OutputTransfer(), AdversarialTransfer()])
def test_whole_numbers_and_truths_are_not_compared(transfer):
    assert transfer.bind(picked(), picked())._views.num_units == [4]
    trunk = small_cnn()
    numbers = keras.Model(trunk.input, keras.ops.argmax(trunk.output, -1))
    with pytest.raises(ValueError, match=r"outputs of type int32\. Expected floating"):
        transfer.bind(numbers, numbers)


def told(transfer, teacher, student, answers):
    """The transfer bound, told that the only output is values, such as these."""
    scale = Scale(answers.shape[-1])
    scale.assign(scale.measure(answers))
    bound = transfer.bind(teacher, student)
    bound.tell(["values"], {0: scale})
    return bound


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_values_are_compared_by_the_share_of_the_variance_that_is_missed(size):
    answers = size * np.random.default_rng(0).normal(100.0, (1.0, 3.0), (64, 2)).astype("float32")
    bound = told(OutputTransfer(), small_cnn(num_classes=2), small_cnn(num_classes=2), answers)

    def loss(found):
        return float(bound.loss(Reading([answers]), Reading([found])))

    assert loss(answers) == 0
    assert loss(answers.mean(0, keepdims=True) + np.zeros((64, 1))) == pytest.approx(1, rel=1e-3)
    common = answers + 3 * size  # which no softmax would see
    assert loss(common) == pytest.approx(9 / answers.var(0).mean() * size**2, rel=1e-3)


@pytest.mark.parametrize("answers, spread", [([[7.0]], 7.0), ([[-3.0], [-3.0]], 3.0), ([[0.0]], 1)])
def test_the_scale_of_equal_answers_is_their_size(answers, spread):
    assert float(Scale(1).measure(np.array(answers))[1]) == pytest.approx(spread)


def test_the_discriminator_sees_values_on_their_scale():
    teacher, student = small_cnn(seed=1, num_classes=2), small_cnn(seed=2, num_classes=2)
    answers = np.random.default_rng(0).normal(500.0, 100.0, (64, 2)).astype("float32")
    found = answers + 50.0
    bound = told(AdversarialTransfer(), teacher, student, answers)
    (seen,) = bound._views.of_teacher(Reading([answers]))
    np.testing.assert_allclose(np.mean(seen, 0), 0, atol=1e-3)
    assert np.var(seen) == pytest.approx(1, rel=1e-3)
    with tf.GradientTape() as tape:
        found = tf.constant(found)
        tape.watch(found)
        move = bound.play(Reading([answers]), Reading([found]))
    pull = tape.gradient(move.loss, found).numpy()
    assert (pull.sum(-1) >= -1e-9).all()  # never away from the teacher, who says less
    assert 0 < np.linalg.norm(pull * 64, axis=-1).max() <= 50 * 2**0.5 / np.var(answers) * 1.01


@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="Received temperature"):
        OutputTransfer(temperature=temperature)


@pytest.mark.parametrize(
    "make", [OutputTransfer, AttentionTransfer, FeatureTransfer, AdversarialTransfer]
)
def test_weights_must_not_be_negative(make):
    with pytest.raises(ValueError, match=r"Received weight=-0\.5"):
        make(weight=-0.5)


# --- attention ----------------------------------------------------------------------------------


def test_attention_transfer_compares_networks_of_different_width():
    teacher, student = small_cnn(width=8, seed=1), small_cnn(width=5, seed=2)
    move, _, bound = play(AttentionTransfer(), teacher, student)
    a, b = read(teacher, bound).energies, read(student, bound).energies
    expected = sum(np.mean(losses.attention_loss(a[p], b[p])) for p in ("relu0", "relu1"))
    np.testing.assert_allclose(move.loss, expected, rtol=1e-5)
    assert 0 < float(move.loss) < 4


def test_attention_over_channels_that_come_first_is_refused_and_left_out_by_default():
    x = inputs = keras.Input((4, 8, 8))
    for name in ("a", "b"):
        x = keras.layers.Conv2D(4, 3, padding="same", data_format="channels_first", name=name)(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    with pytest.raises(ValueError, match=r"'a' is channels_first\. Expected channels_last"):
        AttentionTransfer().bind(model, model)
    assert not [t for t in default_transfers(model, model) if isinstance(t, AttentionTransfer)]


def test_attention_taps_by_name():
    _, _, bound = play(AttentionTransfer(["conv1"]), small_cnn(seed=1), small_cnn(seed=2))
    assert bound.energies == {"conv1": "conv1"}


@pytest.mark.parametrize("make", [AttentionTransfer, FeatureTransfer])
@pytest.mark.parametrize("taps", ["relu0", [], ()])
def test_taps_must_be_auto_or_a_list(make, taps):
    with pytest.raises(ValueError, match="Received taps="):
        make(taps)


@pytest.mark.parametrize("make", [AttentionTransfer, FeatureTransfer])
def test_taps_that_do_not_exist_are_refused(make):
    with pytest.raises(ValueError, match="nowhere"):
        make(["nowhere"]).bind(small_cnn(seed=1), small_cnn(seed=2))


def test_taps_of_other_size_are_refused():
    student = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, name="conv1"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ]
    )
    with pytest.raises(ValueError, match=r"\(4, 4\) in the teacher and \(6, 6\)"):
        AttentionTransfer(["conv1"]).bind(small_cnn(), student)
    with pytest.raises(ValueError, match="at least one spatial axis"):
        AttentionTransfer(["pool"]).bind(small_cnn(), small_cnn(seed=1))


# --- features -----------------------------------------------------------------------------------


def test_feature_transfer_is_the_mean_relative_distance():
    teacher, student = small_cnn(seed=1), small_cnn(seed=2)
    move, _, bound = play(FeatureTransfer(), teacher, student)
    a, b = read(teacher, bound).taps, read(student, bound).taps
    expected = sum(np.mean(losses.feature_loss(a[p], b[p])) for p in ("relu0", "relu1"))
    np.testing.assert_allclose(move.loss, expected, rtol=1e-5)
    assert float(move.loss) > 0
    assert float(play(FeatureTransfer(), teacher, teacher)[0].loss) == 0


def cut(model, *removed):
    """The model without some channels of its first group."""
    group = next(g for g in find_channel_groups(model) if g.prunable)
    return prune_channels(model, {group.name: ~np.isin(np.arange(group.num_channels), removed)})


def test_kept_features_are_compared_with_the_same_channels_of_the_teacher():
    teacher = small_cnn(width=8)
    path = "relu0"
    once = cut(teacher, 0, 5)
    twice = cut(once, 1)  # channel 2 of the teacher
    axis, indices = kept_channels(teacher, twice, path)
    assert (axis, list(indices)) == (3, [1, 3, 4, 6, 7])
    assert list(kept_channels(once, twice, path)[1]) == [0, 2, 3, 4, 5]
    assert kept_channels(teacher, cut(teacher), path) is None
    for other in (cut(teacher, 2), cut(teacher)):  # channels that `once` has lost
        with pytest.raises(ValueError, match=path):
            kept_channels(once, other, path)
    # Nothing in front of the tap was lost, so its features are the teacher's, at these channels.
    move, _, _ = play(FeatureTransfer([path]), teacher, twice)
    assert float(move.loss) < 1e-6
    kept = {path: [2, 3, 4, 6, 7]}  # one wrong channel
    assert float(play(FeatureTransfer([path], kept=kept), teacher, twice)[0].loss) > 1e-2


def test_features_of_a_student_that_was_not_cut_from_its_teacher_are_refused():
    teacher, stranger = small_cnn(width=8), small_cnn(width=5)
    with pytest.raises(ValueError, match="not known to be cut from the teacher"):
        FeatureTransfer().bind(teacher, stranger)
    kept = {"relu0": range(5), "relu1": range(4)}
    with pytest.raises(ValueError, match=r"in the teacher and .* in the student"):
        FeatureTransfer(kept=kept).bind(teacher, stranger)
    FeatureTransfer(["relu0"], kept=kept).bind(teacher, stranger)


def test_features_are_read_where_residual_sums_end():
    x = inputs = keras.Input((8, 8, 4))
    for i in range(12):
        y = keras.layers.Conv2D(4, 3, padding="same")(x)
        x = keras.layers.ReLU(name=f"end{i}")(keras.layers.Add(name=f"add{i}")([x, y]))
    taps = find_feature_taps(keras.Model(inputs, x))
    assert len(taps) == 9 and taps[-1] == "end11" and len(set(taps)) == 9
    assert find_feature_taps(small_cnn()) == ("relu0", "relu1")


@pytest.mark.parametrize("relu", [keras.layers.ReLU(), keras.ops.relu, keras.activations.relu])
def test_sums_are_seen_however_they_are_written(relu):
    x = inputs = keras.Input((8, 8, 4))
    y = keras.layers.Conv2D(4, 3, padding="same")(x)
    end = relu(x + y)
    other = keras.layers.Conv2D(4, 3, padding="same")(end + 1.0)  # no sum of two tensors
    model = keras.Model(inputs, other)
    assert find_feature_taps(model) == (model.operations[-3].name,)


# --- adversarial --------------------------------------------------------------------------------


def test_without_guard_the_gradient_is_that_of_the_plain_adversarial_loss():
    teacher, student = small_cnn(seed=1), small_cnn(seed=2)
    move, gradient, bound = play(AdversarialTransfer(max_pull=None), teacher, student)
    kernel = student.get_layer("out").kernel
    with tf.GradientTape() as tape:
        verdicts = bound.discriminator(student(IMAGES))
        expected = tf.reduce_mean(losses.adversarial_loss(verdicts))
    np.testing.assert_allclose(move.loss, expected, rtol=1e-5)
    np.testing.assert_allclose(
        gradient, tape.gradient(expected, kernel.value), rtol=1e-4, atol=1e-7
    )


def test_the_student_feels_the_discriminator():
    _, gradient, _ = play(AdversarialTransfer(), small_cnn(seed=1), small_cnn(seed=2))
    assert np.abs(gradient).max() > 1e-5


def test_the_discriminator_learns_once_per_move_and_never_before():
    teacher, student = small_cnn(seed=1), small_cnn(seed=2)
    move, _, bound = play(AdversarialTransfer(), teacher, student)
    bound.compile(keras.optimizers.SGD())
    before = bound.discriminator.get_weights()
    losses_seen = []
    for _ in range(8):
        move = bound.play(read(teacher), read(student))
        losses_seen.append(float(move.logs["discriminator_loss"]))
        move.learn()
    assert int(bound.player_optimizer.iterations) == 8
    assert losses_seen[-1] < losses_seen[0]
    assert any(
        (a != b).any() for a, b in zip(before, bound.discriminator.get_weights(), strict=True)
    )


def test_pooled_features_are_shown_too():
    teacher, student = small_cnn(seed=1), small_cnn(seed=2)
    bound = AdversarialTransfer(features="relu1").bind(teacher, student)
    assert bound.discriminator.input_shape == (None, 4 + 6)
    assert np.isfinite(bound.play(read(teacher, bound), read(student, bound)).loss)


def test_features_of_unequal_width_are_refused():
    with pytest.raises(ValueError, match="8 channels in the teacher and 5"):
        AdversarialTransfer(features="relu1").bind(small_cnn(8), small_cnn(5, seed=1))


def test_any_model_can_be_the_discriminator_if_it_fits():
    own = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    bound = AdversarialTransfer(discriminator=own).bind(small_cnn(), small_cnn(seed=1))
    assert bound.discriminator is own
    with pytest.raises(ValueError, match=r"Expected \(None, 4\) -> \(None, 1\)"):
        wrong = build_discriminator(10)
        AdversarialTransfer(discriminator=wrong).bind(small_cnn(), small_cnn(seed=1))


def foreign(width=4, sizes=(8, 4)):
    """Another family: other names, other depth, the same question."""
    keras.utils.set_random_seed(3)
    inputs = x = keras.Input((8, 8, 1))
    for i, size in enumerate(sizes):
        strides = x.shape[1] // size
        x = keras.layers.Conv2D(width, 3, strides, "same", activation="relu", name=f"block{i}")(x)
        x = keras.layers.Conv2D(width, 3, padding="same", name=f"last{i}")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(4)(x))


def test_networks_of_other_families_are_paired_by_resolution():
    bound = AttentionTransfer("auto").bind(small_cnn(), foreign())
    assert bound.energies == {"relu0": "last0", "relu1": "last1"}
    assert AttentionTransfer("auto").bind(small_cnn(), foreign(sizes=(4, 2))).energies == {
        "relu1": "last0"
    }
    with pytest.raises(ValueError, match=r"sizes \[\(8, 8\), \(4, 4\)\].*taps={teacher path"):
        AttentionTransfer("auto").bind(small_cnn(), foreign(sizes=(2,)))


def test_a_pair_is_read_where_each_network_has_it():
    teacher, student = small_cnn(6), foreign(6)
    pairs = {"relu0": "block0", "relu1": "last1"}
    images = small_data(4)[0]
    own = {other: keras.Model(student.input, student.get_layer(other).output)(images)
           for other in pairs.values()}  # fmt: skip
    theirs = {path: keras.Model(teacher.input, teacher.get_layer(path).output)(images)
              for path in pairs}  # fmt: skip
    for kind, term in (
        (AttentionTransfer, lambda t, s: losses.attention_loss(losses.energy(t), losses.energy(s))),
        (FeatureTransfer, losses.feature_loss),
    ):
        game = AdversarialDistiller(teacher, student, [kind(pairs, weight=1.0)], 1.0)
        game.compile("sgd")
        logs = game.train_on_batch(images, return_dict=True)
        expected = sum(float(np.mean(term(theirs[t], own[s]))) for t, s in pairs.items())
        assert logs["loss"] == pytest.approx(expected, rel=1e-4)
        student.set_weights(foreign(6).get_weights())


def test_the_papers_discriminator():
    model = build_discriminator(10)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert [layer.units for layer in dense] == [128, 256, 128, 1]
    assert dense[-1].activation is keras.activations.linear


def test_bound_transfers_do_not_share_a_discriminator():
    transfer, teacher, student = AdversarialTransfer(), small_cnn(), small_cnn(seed=1)
    first, second = (transfer.bind(teacher, student) for _ in range(2))
    assert first.discriminator is not second.discriminator
    assert transfer.discriminator is None


def test_two_players_cannot_share_an_optimizer():
    optimizer = keras.optimizers.SGD()
    bound = AdversarialTransfer(optimizer=optimizer).bind(small_cnn(), small_cnn(seed=1))
    with pytest.raises(ValueError, match="one optimizer for the student"):
        bound.compile(optimizer)


@pytest.mark.parametrize("max_pull", [0, -1.0])
def test_max_pull_must_be_positive(max_pull):
    with pytest.raises(ValueError, match="Received max_pull"):
        AdversarialTransfer(max_pull=max_pull)


def test_outputs_with_positions_cannot_be_mixed():
    x = inputs = keras.Input((8, 8, 1))
    dense = keras.layers.Conv2D(4, 1)(x)

    def model():
        pooled = keras.layers.GlobalAveragePooling2D()(dense)
        return keras.Model(inputs, [dense, pooled])

    with pytest.raises(ValueError, match="a single output with positions"):
        AdversarialTransfer().bind(model(), model())
    alone = AdversarialTransfer(outputs=0).bind(model(), model())
    assert alone.discriminator.input_shape == (None, 4)


@pytest.mark.parametrize(
    "transfer",
    [
        OutputTransfer(2.0, 0.3, outputs=["a"], from_logits=False, name="soft"),
        AttentionTransfer(["a", "b"], 0.7),
        AttentionTransfer({"a": "x", "b": "b"}, 0.7),
        FeatureTransfer(["a"], 0.7),
        AdversarialTransfer(0.5, build_discriminator(3), "sgd", "pool", [0], 0.25, name="game"),
    ],
)
def test_transfers_survive_their_configuration(transfer):
    config = keras.saving.serialize_keras_object(transfer)
    copy = keras.saving.deserialize_keras_object(config)
    assert keras.saving.serialize_keras_object(copy) == config
