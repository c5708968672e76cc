"""Passes over a dataset are counted, and a fresh pipeline can be wound forward to any of them."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from aip_tf import datasets
from aip_tf.datasets.passes import counted

IMAGES = np.random.default_rng(0).random((24, 8, 8, 1), np.float32)


def own_pipeline():
    pair = IMAGES, np.arange(24) % 3
    augment = datasets.augment.pad_crop(1)
    return datasets.from_arrays(pair, pair, batch_size=8, augment=augment, seed=3).train


def users_pipeline():
    return tf.data.Dataset.from_tensor_slices(IMAGES).cache().shuffle(9, seed=5).batch(8)


def numbers(dataset):
    return [np.asarray(x) for x in tf.nest.flatten(list(dataset))]


@pytest.mark.parametrize("pipeline", [own_pipeline, users_pipeline])
def test_a_pass_is_the_same_in_every_process_however_it_is_reached(pipeline):
    passes = counted(pipeline())
    seen = [numbers(passes.dataset) for _ in range(3)]
    next(iter(passes.dataset.take(1)))  # a look at the first batch is a pass
    seen.append(numbers(passes.dataset))
    assert passes.count == 5
    assert any(not np.array_equal(a, b) for a, b in zip(seen[2], seen[3], strict=True))
    again = counted(pipeline())
    again.wind(4)
    for before, now in zip(seen[3], numbers(again.dataset), strict=True):
        np.testing.assert_array_equal(before, now)
    again.wind(2)
    assert again.count == 5


def test_one_dataset_has_one_count():
    dataset = users_pipeline()
    assert counted(dataset) is counted(dataset) is counted(counted(dataset).dataset)


def test_an_iterator_that_nothing_is_read_from_is_no_pass():
    passes = counted(users_pipeline())
    iter(passes.dataset)
    assert passes.count == 0


def test_size_and_options_are_those_of_the_source():
    source = own_pipeline()
    dataset = counted(source).dataset
    assert int(dataset.cardinality()) == 3
    assert dataset.element_spec == source.element_spec
    policy = dataset.options().experimental_distribute.auto_shard_policy
    assert policy == tf.data.experimental.AutoShardPolicy.DATA


def test_a_counted_dataset_is_not_kept_for_ever():
    dataset = users_pipeline()
    gone = weakref.ref(counted(dataset).dataset)
    del dataset
    gc.collect()
    assert gone() is None
