"""Crops and flips: every image a window of its padded self, all windows equally likely."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from enorm_jax.augment import Augmentation


def windows(image, pad, size):
    """All crops of a padded image and their mirror images, in float64 NumPy."""
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    places = [n - size + 1 for n in padded.shape[:2]]
    cuts = [padded[i : i + size, j : j + size] for i in range(places[0]) for j in range(places[1])]
    return [*cuts, *(cut[:, ::-1] for cut in cuts)]


@pytest.mark.parametrize(("pad", "crop", "count"), [(1, None, 18), (0, 3, 8), (2, 3, 72)])
def test_each_image_becomes_one_of_its_windows_each_equally_often(rng, pad, crop, count):
    image = rng.integers(1, 255, (4, 4, 2)).astype(np.uint8)
    augment = Augmentation(pad, crop)
    batch = jnp.asarray(np.stack([image] * 2000))
    cropped = np.asarray(jax.jit(augment)(jax.random.key(0), batch))
    assert cropped.dtype == np.uint8
    known = [bytes(np.ascontiguousarray(cut)) for cut in windows(image, pad, crop or 4)]
    assert len(known) == count
    seen = [known.index(bytes(np.ascontiguousarray(cut))) for cut in cropped]
    found = np.bincount(seen, minlength=count)
    assert np.all(np.abs(found - 2000 / count) < 6 * np.sqrt(2000 / count))


def test_the_same_key_gives_the_same_crops_and_another_key_others(rng):
    images = jnp.asarray(rng.integers(0, 255, (6, 8, 8, 3)).astype(np.uint8))
    one, same, other = (Augmentation()(jax.random.key(k), images) for k in (0, 0, 1))
    chex.assert_trees_all_equal(one, same)
    assert (one != other).any()
    still = Augmentation(pad=0, flip=False)
    chex.assert_trees_all_equal(still(jax.random.key(0), images), images)
    chex.assert_trees_all_equal(Augmentation().centre(images), images)
    chex.assert_trees_all_equal(Augmentation(2, 4).centre(images), images[:, 2:6, 2:6])


def test_crops_that_do_not_fit_are_refused():
    images = jnp.zeros((1, 8, 8, 3))
    with pytest.raises(ValueError, match=r"\(11, 11\).*padded by 1"):
        Augmentation(1, 11)(jax.random.key(0), images)
    with pytest.raises(ValueError, match="centre"):
        Augmentation(2, 10).centre(images)
