"""The steps every dataset shares: shuffle, batch, augment from a seed, shard, prefetch."""

import tensorflow as tf

from aip_tf.arguments import check, integer

# Decoded examples up to this size are kept in memory after the first epoch.
CACHE_BYTES = 512 * 2**20
_KINDS = {"batch_size": integer(1)}


def training_batches(examples, num_examples, batch_size, augment=None, *, seed=0, cached=False):
    """Turns `(image, label)` examples into shuffled, augmented batches.

    Args:
        examples: dataset of single `(image, label)` pairs.
        num_examples: how many there are.
        batch_size: images in a batch; at most `num_examples` are used.
        augment: `augment(images, seed) -> images` on a float32 batch in `[0, 1]`, with `seed` an
            int64 tensor of shape (2,) that is new for every batch and epoch; or None.
        seed: two pipelines with one seed yield the same batches, epoch by epoch.
        cached: whether to keep `examples` in memory after the first pass.
    """
    batch_size = min(batch_size, num_examples)
    if cached:
        examples = examples.cache()
    examples = examples.shuffle(min(num_examples, 100_000), seed=seed)
    batches = examples.batch(batch_size, drop_remainder=True)
    if augment is None:
        batches = batches.map(to_unit_range, num_parallel_calls=tf.data.AUTOTUNE)
    else:
        batches = with_seeds(batches, seed).map(
            lambda batch, image_seed: (augment(to_unit_range(*batch)[0], image_seed), batch[1]),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    return finish(batches, num_examples // batch_size)


def evaluation_batches(examples, num_examples, batch_size, *, cached=False):
    """Turns `(image, label)` examples into batches in `[0, 1]`, in the order given."""
    if cached:
        examples = examples.cache()
    batches = examples.batch(batch_size).map(to_unit_range, num_parallel_calls=tf.data.AUTOTUNE)
    return finish(batches, -(-num_examples // batch_size))


def with_seeds(examples, seed):
    """Pairs every element with a fresh int64 seed of shape (2,), new in every epoch."""
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
    return tf.data.Dataset.zip((examples, seeds))


def to_unit_range(images, labels):
    """Scales integer images by 1/255; float images are taken to be in range already."""
    if images.dtype.is_integer:
        return tf.cast(images, tf.float32) / 255.0, labels
    return tf.cast(images, tf.float32), labels


def finish(batches, num_batches):
    """Pins the cardinality, shards by example over workers and prefetches."""
    options = tf.data.Options()
    # Every worker draws the same seeded stream and keeps its part of each batch: what one device
    # would see. The price: every machine decodes the whole stream.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    batches = batches.apply(tf.data.experimental.assert_cardinality(num_batches))
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def check_batch_size(batch_size):
    """Raises `ValueError` unless `batch_size` is a positive integer."""
    check(_KINDS, locals())
