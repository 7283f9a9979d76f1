"""What a network is worth: loss and accuracy over a data set, norms of its kernels.

Shapes: B images in a batch, N images in the data set. Images are (height, width, channels) uint8.
"""

from typing import Any

import jax
import jax.numpy as jnp

from enorm_jax.recipe import Recipe, TrainState

EVALUATION_BATCH = 1000


def evaluate(
    recipe: Recipe, state: TrainState, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    r"""Loss and accuracy over a data set, with running statistics.

    .. math::
        \tfrac1N \sum_i -\log \mathrm{softmax}(f(x_i))_{y_i}, \quad
        \tfrac1N \, |\{i : \arg\max f(x_i) = y_i\}|

    Args:
      recipe: static part of the program.
      state: state to evaluate.
      images: (N, height, width, channels), uint8.
      labels: (N,), integers.

    Returns:
      Mean cross-entropy (nats) and accuracy (fraction), scalars.
    """

    def totals(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        return batch_totals(recipe, state, images[index], labels[index])

    size, batch = len(labels), min(EVALUATION_BATCH, len(labels))
    full, rest = jnp.split(jnp.arange(size), [size // batch * batch])
    losses, hits = jax.lax.map(totals, full.reshape(-1, batch))
    loss, hit = losses.sum(), hits.sum()
    if rest.size:
        loss, hit = jax.tree.map(jnp.add, (loss, hit), totals(rest))
    return loss / size, hit.astype(jnp.float32) / size


def batch_totals(
    recipe: Recipe, state: TrainState, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sums over a batch, with running statistics: what an evaluation adds up.

    Args:
      recipe: static part of the program.
      state: state to evaluate.
      images: (B, height, width, channels), uint8.
      labels: (B,), integers.

    Returns:
      Sum of the losses and number of images that are classified right, scalars.
    """
    images, labels = recipe.share_out(images, labels)
    if recipe.augmentation is not None:
        images = recipe.augmentation.centre(images)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits: Any = recipe.model.apply(variables, recipe.standardization(images), train=False)
    losses = recipe.losses(logits, labels)
    return losses.sum(), jnp.sum(jnp.argmax(logits, axis=-1) == labels)


def kernel_norms(params: Any) -> jax.Array:
    """The Frobenius norms of a network's kernels.

    Args:
      params: the model's parameters.

    Returns:
      (layers,), in the order of the parameters' names.
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    kernels = [leaf for path, leaf in leaves if getattr(path[-1], "key", None) == "kernel"]
    return jnp.stack([jnp.linalg.norm(kernel.reshape(-1)) for kernel in kernels])
