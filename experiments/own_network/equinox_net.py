"""ENorm for an Equinox network: convolution, PReLU, flatten, Adam."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from enorm_jax import equi_normalize, explain, infer_groups
from enorm_jax.data import load


def network(key: jax.Array) -> eqx.nn.Sequential:
    """Image (1, height, width) -> logits (10,), with a learned slope and a flattening."""
    keys = jax.random.split(key, 3)
    layers: list[Any] = [eqx.nn.Conv2d(1, 8, 3, padding=1, key=keys[0])]
    layers += [eqx.nn.Lambda(f) for f in (eqx.nn.PReLU(), eqx.nn.MaxPool2d(2, 2), jnp.ravel)]
    layers += [eqx.nn.Linear(8 * 4 * 4, 32, key=keys[1]), eqx.nn.Lambda(jax.nn.relu)]
    layers += [eqx.nn.Linear(32, 10, key=keys[2])]
    return eqx.nn.Sequential(layers)


def main(steps: int = 100) -> list[float]:
    """Trains on digits; returns the losses."""
    data = load("digits")
    images, labels = data.standardization(data.train_images), jnp.asarray(data.train_labels)
    images = jnp.moveaxis(images, -1, 1)
    params, static = eqx.partition(network(jax.random.key(0)), eqx.is_inexact_array)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return jax.vmap(eqx.combine(params, static))(x)

    groups = infer_groups(apply, params, images[:1])
    print(explain(groups))
    optimizer = equi_normalize(optax.adam(3e-3), c=1.1, groups=groups)

    @jax.jit
    def step(params: Any, state: Any, index: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            return cross_entropy(apply(params, images[index]), labels[index]).mean()

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
