"""ENorm for a pre-activation ResNet whose first layers are frozen."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from enorm_jax import equi_normalize, explain, infer_groups
from enorm_jax.data import load


class ResNet(nn.Module):
    """Residual blocks, with a learned skip where the shape changes, else the identity."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of shape (batch, 10)."""
        x = nn.Conv(8, (3, 3), name="stem")(x)
        for block, (features, stride) in enumerate([(8, 1), (16, 2), (16, 1)]):
            y, skip = nn.relu(x), x
            if features != x.shape[-1]:
                skip = nn.Conv(features, (1, 1), stride, name=f"skip_{block}")(y)
            y = nn.relu(nn.Conv(features, (3, 3), stride, name=f"first_{block}")(y))
            x = skip + nn.Conv(features, (3, 3), name=f"second_{block}")(y)
        return nn.Dense(10, name="logits")(nn.relu(x).mean(axis=(1, 2)))


def main(steps: int = 100) -> list[float]:
    """Trains on digits; returns the losses."""
    data = load("digits")
    images, labels = data.standardization(data.train_images), jnp.asarray(data.train_labels)
    model = ResNet()
    params = jax.jit(model.init)(jax.random.key(0), images[:1])["params"]
    frozen = {"stem": params.pop("stem")}  # no argument of `apply`: ENorm leaves it as it is

    def apply(params: Any, x: jax.Array) -> Any:
        return model.apply({"params": params | frozen}, x)

    groups = infer_groups(apply, params, images[:1])
    print(explain(groups))
    optimizer = equi_normalize(optax.sgd(0.05, momentum=0.9), c=1.0, groups=groups)

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
