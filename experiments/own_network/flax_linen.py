"""ENorm for a Flax Linen network: convolutions, batch norm, AdamW."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from enorm_jax import equi_normalize, explain, infer_groups
from enorm_jax.data import load


class ConvNet(nn.Module):
    """Two convolutions with batch norm, a dense layer after flattening, the classifier."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Logits of shape (batch, 10)."""
        for features in (8, 16):
            x = nn.Conv(features, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(32)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(x)


def main(steps: int = 100) -> list[float]:
    """Trains on digits; returns the losses."""
    data = load("digits")
    images, labels = data.standardization(data.train_images), jnp.asarray(data.train_labels)
    model = ConvNet()
    variables = jax.jit(model.init, static_argnums=2)(jax.random.key(0), images[:1], False)
    params, stats = variables["params"], variables["batch_stats"]

    def apply(params: Any, stats: Any, x: jax.Array) -> tuple[Any, Any]:
        variables = {"params": params, "batch_stats": stats}
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    groups = infer_groups(lambda params, x: apply(params, stats, x)[0], params, images[:4])
    print(explain(groups))
    optimizer = equi_normalize(optax.adamw(3e-3), c=1.1, groups=groups)

    @jax.jit
    def step(params: Any, stats: Any, state: Any, index: jax.Array) -> Any:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            logits, new = apply(params, stats, images[index])
            return cross_entropy(logits, labels[index]).mean(), new["batch_stats"]

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), stats, state, value

    state, losses = optimizer.init(params), []
    for index in jax.random.randint(jax.random.key(1), (steps, 64), 0, len(labels)):
        params, stats, state, value = step(params, stats, state, index)
        losses.append(float(value))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
