"""ENorm in a training step of your own: parameters are a list of dicts, no library around."""

import jax
import jax.numpy as jnp
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from enorm_jax import enorm_step, explain, infer_groups
from enorm_jax.data import load

Params = list[dict[str, jax.Array]]


def init(key: jax.Array, sizes: tuple[int, ...]) -> Params:
    """He-normal weights, biases at zero."""
    keys = jax.random.split(key, len(sizes) - 1)
    he = jax.nn.initializers.he_normal()
    pairs = zip(keys, sizes, sizes[1:], strict=False)
    return [{"w": he(k, (m, n)), "b": jnp.zeros(n)} for k, m, n in pairs]


def network(params: Params, x: jax.Array) -> jax.Array:
    """A multilayer perceptron with leaky ReLUs."""
    x = x.reshape(x.shape[0], -1)
    for layer in params[:-1]:
        x = jax.nn.leaky_relu(x @ layer["w"] + layer["b"][None, :])
    return x @ params[-1]["w"] + params[-1]["b"][None, :]


def main(steps: int = 200) -> list[float]:
    """Trains on digits; returns the losses."""
    data = load("digits")
    images, labels = data.standardization(data.train_images), jnp.asarray(data.train_labels)
    params = init(jax.random.key(0), (64, 64, 48, 32, 10))
    groups = infer_groups(network, params, images[:1])
    print(explain(groups))

    @jax.jit
    def step(params: Params, index: jax.Array) -> tuple[Params, jax.Array]:
        def loss(params: Params) -> jax.Array:
            logits = network(params, images[index])
            return cross_entropy(logits, labels[index]).mean()

        value, grads = jax.value_and_grad(loss)(params)
        params = jax.tree.map(lambda w, g: w - 0.05 * g, params, grads)
        return enorm_step(params, c=1.0, groups=groups), value

    losses = []
    for index in jax.random.randint(jax.random.key(1), (steps, 64), 0, len(labels)):
        params, value = step(params, index)
        losses.append(float(value))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
