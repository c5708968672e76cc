"""losses.py against numbers computed by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from aip_tf import losses


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention_map(features):
    return losses.attention_map(losses.energy(features))


def attention_loss(teacher, student):
    return losses.attention_loss(losses.energy(teacher), losses.energy(student))


def test_attention_map_is_the_normalised_energy():
    features = np.array([[[[1.0, 2.0], [0.0, 2.0]]]], "float32")  # energies 5 and 4
    expected = np.array([[5.0, 4.0]]) / np.sqrt(41.0)
    np.testing.assert_allclose(attention_map(features), expected, rtol=1e-6)


def test_attention_map_ignores_scale_width_and_sign():
    features = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype("float32")
    doubled = np.concatenate([-7 * features, 7 * features], axis=-1)
    np.testing.assert_allclose(attention_map(doubled), attention_map(features), rtol=1e-5)


def test_attention_of_a_dead_layer_is_zero_with_a_finite_gradient():
    features = tf.Variable(tf.zeros((1, 2, 2, 3)))
    with tf.GradientTape() as tape:
        loss = attention_loss(np.ones((1, 2, 2, 5), "float32"), features)
    assert np.isfinite(tape.gradient(loss, features)).all()
    np.testing.assert_allclose(loss, [1.0], rtol=1e-6)


def test_attention_loss_sums_over_positions():
    teacher = np.array([[[1.0], [0.0]]], "float32")
    student = np.array([[[0.0, 0.0], [3.0, 4.0]]], "float32")
    np.testing.assert_allclose(attention_loss(teacher, student), [2.0], rtol=1e-6)
    np.testing.assert_allclose(attention_loss(teacher, 5 * teacher), [0.0], atol=1e-12)


def test_attention_weight_of_the_paper_converts_by_the_number_of_positions():
    generator = np.random.default_rng(1)
    teacher, student = generator.random((2, 3, 4, 4, 5), dtype="float32")
    maps = [np.square(x).mean(-1).reshape(3, 16) for x in (teacher, student)]
    maps = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps]
    papers = 50 * np.square(maps[1] - maps[0]).mean()
    ours = 50 / 16 * np.mean(attention_loss(teacher, student))
    np.testing.assert_allclose(ours, papers, rtol=1e-5)


def test_what_is_squared_and_summed_takes_symbolic_tensors():
    image = keras.Input((4, 5, 3))
    assert losses.energy(image).shape == (None, 4, 5)
    assert losses.feature_loss(image, image).shape == (None,)


def test_feature_loss_is_relative_to_the_teacher():
    teacher = np.array([[[3.0], [4.0]], [[0.1], [0.0]]], "float32")
    student = np.array([[[3.0], [2.0]], [[0.1], [0.2]]], "float32")
    np.testing.assert_allclose(losses.feature_loss(teacher, student), [4 / 25, 4], rtol=1e-6)
    np.testing.assert_allclose(losses.feature_loss(teacher, 0 * student), [1, 1], rtol=1e-6)


def test_a_silent_teacher_asks_for_no_features():
    student = tf.Variable(tf.ones((1, 2, 1)))
    with tf.GradientTape() as tape:
        loss = losses.feature_loss(tf.zeros((1, 2, 1)), student)
    np.testing.assert_array_equal(loss, [0.0])
    np.testing.assert_array_equal(tape.gradient(loss, student), tf.zeros((1, 2, 1)))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_output_loss_is_the_scaled_divergence(temperature):
    teacher, student = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32") * 3
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    expected = temperature**2 * (p * np.log(p / q)).sum(-1)
    np.testing.assert_allclose(
        losses.output_loss(teacher, student, temperature), expected, rtol=1e-4
    )


def test_output_loss_gradient_does_not_shrink_with_temperature():
    teacher = np.array([[2.0, 0.0, -1.0]], "float32")
    lengths = []
    for temperature in (5.0, 50.0):
        student = tf.Variable(np.array([[0.0, 1.0, 0.0]], "float32"))
        with tf.GradientTape() as tape:
            loss = losses.output_loss(teacher, student, temperature)
        lengths.append(np.linalg.norm(tape.gradient(loss, student)))
    assert 0.8 < lengths[1] / lengths[0] < 1.25


def test_binary_output_loss_is_the_divergence_of_two_coins():
    teacher, student = np.array([[0.3, -2.0]], "float32"), np.array([[1.0, 0.5]], "float32")
    p, q = 1 / (1 + np.exp(-teacher)), 1 / (1 + np.exp(-student))
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(-1)
    np.testing.assert_allclose(losses.binary_output_loss(teacher, student), expected, rtol=1e-5)


def test_probabilities_become_logits_again():
    logits = np.array([[1.0, -2.0, 0.5]], "float32")
    np.testing.assert_allclose(
        softmax(np.asarray(losses.softmax_to_logits(softmax(logits)))), softmax(logits), rtol=1e-5
    )
    sigmoids = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(losses.sigmoid_to_logits(sigmoids), logits, rtol=1e-4)


def test_certain_probabilities_give_finite_logits():
    certain = np.array([[0.0, 1.0]], "float32")
    assert np.isfinite(losses.softmax_to_logits(certain)).all()
    assert np.isfinite(losses.sigmoid_to_logits(certain)).all()


def test_game_losses_against_binary_cross_entropy():
    teacher, student = np.array([[2.0]], "float32"), np.array([[-1.0]], "float32")
    s = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    expected = -0.5 * (np.log(s(2.0)) + np.log(1 - s(-1.0)))
    np.testing.assert_allclose(losses.discriminator_loss(teacher, student), [[expected]], rtol=1e-6)
    np.testing.assert_allclose(losses.adversarial_loss(student), [[-np.log(s(-1.0))]], rtol=1e-6)
    np.testing.assert_allclose(losses.discriminator_loss(0.0, 0.0), np.log(2), rtol=1e-6)


def test_adversarial_gradient_does_not_vanish_when_the_discriminator_is_sure():
    verdict = tf.Variable(-30.0)
    with tf.GradientTape() as tape:
        loss = losses.adversarial_loss(verdict)
    np.testing.assert_allclose(tape.gradient(loss, verdict), -1.0, rtol=1e-6)


def test_discriminator_accuracy_counts_right_verdicts():
    accuracy = losses.discriminator_accuracy(np.array([1.0, -1.0, 3.0]), np.array([-2.0, -1.0, 2]))
    np.testing.assert_array_equal(accuracy, [1.0, 0.5, 0.5])


def test_guarded_pull_never_points_away_and_is_bounded():
    generator = np.random.default_rng(0)
    pull = generator.normal(size=(100, 6)).astype("float32") * 50
    towards = generator.normal(size=(100, 6)).astype("float32")
    guarded = np.asarray(losses.guarded_pull(pull, towards, 0.5))
    assert ((guarded * towards).sum(-1) > -1e-4).all()
    length, limit = np.linalg.norm(guarded, axis=-1), 0.5 * np.linalg.norm(towards, axis=-1)
    assert (length <= limit * (1 + 1e-5)).all()
    assert (length > 0.99 * limit).all()  # these pulls were all too long


def test_guarded_pull_leaves_a_short_helpful_pull_alone():
    pull, towards = np.array([[0.1, 0.0]], "float32"), np.array([[1.0, 1.0]], "float32")
    np.testing.assert_allclose(losses.guarded_pull(pull, towards, 1.0), pull, rtol=1e-6)
    np.testing.assert_allclose(losses.guarded_pull(pull, 0 * towards, 1.0), 0 * pull, atol=1e-9)
