"""ENorm for a Flax NNX network, inside `nnx.Optimizer`."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from enorm_jax import equi_normalize, explain, infer_groups_nnx
from enorm_jax.data import load


class ConvNet(nnx.Module):
    """A convolution with batch norm, an average over the image, two dense layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.hidden = nnx.Linear(16, 32, rngs=rngs)
        self.logits = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of shape (batch, 10)."""
        x = nnx.relu(self.norm(self.conv(x))).mean(axis=(1, 2))
        return self.logits(nnx.relu(self.hidden(x)))


def main(steps: int = 100) -> list[float]:
    """Trains on digits; returns the losses."""
    data = load("digits")
    images, labels = data.standardization(data.train_images), jnp.asarray(data.train_labels)
    model = ConvNet(nnx.Rngs(0))
    groups = infer_groups_nnx(model, images[:4])
    print(explain(groups))
    transform = equi_normalize(optax.sgd(0.1, momentum=0.9, nesterov=True), c=1.1, groups=groups)
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)

    @nnx.jit
    def step(model: ConvNet, optimizer: nnx.Optimizer, index: jax.Array) -> jax.Array:
        def loss(model: ConvNet) -> jax.Array:
            return cross_entropy(model(images[index]), labels[index]).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    batches = jax.random.randint(jax.random.key(1), (steps, 64), 0, len(labels))
    losses = [float(step(model, optimizer, index)) for index in batches]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
