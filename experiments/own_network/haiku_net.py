"""ENorm for a Haiku network: every other step, as the last member of an optax chain."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from enorm_jax import equi_normalize, explain, infer_groups
from enorm_jax.data import load


def network(x: jax.Array) -> jax.Array:
    """Logits of shape (batch, 10): two convolutions, one depthwise, and two dense layers."""
    x = jax.nn.relu(hk.Conv2D(8, 3, stride=2)(x))
    x = jax.nn.relu(hk.DepthwiseConv2D(2, 3)(x))
    x = hk.avg_pool(x, (2, 2, 1), (2, 2, 1), "VALID")
    return hk.nets.MLP([32, 10])(hk.Flatten()(x))


def main(steps: int = 200) -> list[float]:
    """Trains on digits; returns the losses."""
    data = load("digits")
    images, labels = data.standardization(data.train_images), jnp.asarray(data.train_labels)
    model = hk.without_apply_rng(hk.transform(network))
    params = jax.jit(model.init)(jax.random.key(0), images[:1])
    groups = infer_groups(model.apply, params, images[:1])
    print(explain(groups))
    optimizer = optax.chain(
        optax.add_decayed_weights(1e-4),
        optax.sgd(optax.cosine_decay_schedule(0.2, steps)),
        equi_normalize(c=1.1, groups=groups, every=2),
    )

    @jax.jit
    def step(params: Any, state: Any, index: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            return cross_entropy(model.apply(params, images[index]), labels[index]).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    for index in jax.random.randint(jax.random.key(1), (steps, 64), 0, len(labels)):
        params, state, value = step(params, state, index)
        losses.append(float(value))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
