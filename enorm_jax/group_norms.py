"""Normalizations within each sample, and the batch-channel normalization built on them.

Layer and group normalization are Flax's own, as values that a model takes:
``norm(train=..., name=...)``.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from enorm_jax.norms import AxisName, BatchNorm, RunningNorm, batch_mean, moved
from enorm_jax.scaling import wide

EPSILON = 1e-5


@functools.cache  # equal arguments give one value, so that programs compiled for it are shared
def group_norm(groups: int, dtype: DTypeLike | None = None) -> Callable[..., nn.Module]:
    r"""Group normalization, Flax's own, as a value that a model takes.

    .. math::
        y_j = \gamma_j (x_j - \mu_g) / \sqrt{\sigma_g^2 + \epsilon} + \beta_j

    Mean and variance are those of one sample over all units (and positions) of the group g that
    holds unit j. The variance is computed as E[x²] - E[x]², Flax's default, which loses digits
    where the mean is hundreds of deviations.

    Args:
      groups: number of groups; divides the number of units.
      dtype: of the result; None for what input and parameters promote to.

    Returns:
      Function ``norm(train=..., name=...)`` that makes a `flax.linen.GroupNorm`, which raises
      ValueError where the groups do not divide the units.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import FullyConnected, group_norm
      >>> model = FullyConnected(depth=1, width=6, norm=group_norm(2))
      >>> params = model.init(jax.random.key(0), jnp.ones((1, 8)), train=False)["params"]
      >>> params["norm_00"]["scale"].shape
      (6,)

    Reference:
      Wu and He, `Group Normalization <https://arxiv.org/abs/1803.08494>`_, ECCV 2018.
    """

    def norm(*, train: bool, name: str | None = None) -> nn.Module:
        del train  # a sample is normalized alike in training and after
        return _channel(groups, name, dtype)

    return norm


def layer_norm(
    *, train: bool, name: str | None = None, dtype: DTypeLike | None = None
) -> nn.Module:
    r"""Layer normalization as a value that a model takes: group normalization with one group.

    .. math::
        y_j = \gamma_j (x_j - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta_j

    Mean and variance are those of one sample over all units, in images over positions too. The
    variance is computed as E[x²] - E[x]², Flax's default, which loses digits where the mean is
    hundreds of deviations.

    Args:
      train: not used: a sample is normalized alike in training and after.
      name: of the layer.
      dtype: of the result; None for what input and parameters promote to.

    Returns:
      A `flax.linen.GroupNorm` of one group.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import layer_norm
      >>> x = jnp.array([[1.0, 3.0]])
      >>> y, _ = layer_norm(train=True).init_with_output(jax.random.key(0), x)
      >>> y.round(3).tolist()
      [[-1.0, 1.0]]

    Reference:
      Ba et al., `Layer Normalization <https://arxiv.org/abs/1607.06450>`_, 2016.
    """
    del train
    return _channel(1, name, dtype)


def _channel(groups: int, name: str | None, dtype: DTypeLike | None) -> nn.GroupNorm:
    # Flax's variance, E[x²] - E[x]², takes half the time of the two-pass one on a CPU.
    return nn.GroupNorm(num_groups=groups, epsilon=EPSILON, name=name, dtype=dtype)


class EstimatedBatchNorm(RunningNorm):
    r"""Batch normalization by running estimates in training too, for batches of a few samples.

    .. math::
        \hat\mu \leftarrow (1 - r) \hat\mu + r \, \mathrm{mean}(x), \quad
        \hat\sigma^2 \leftarrow (1 - r) \hat\sigma^2 + r \, \mathrm{mean}((x - \hat\mu_{old})^2),
        \quad y = \gamma (x - \hat\mu) / \sqrt{\hat\sigma^2 + \epsilon} + \beta

    A batch is normalized by the estimates that it has just updated; no gradient passes through
    them. A batch of one is enough.

    Attributes:
      train: whether to update the estimates.
      momentum: r, weight of the new batch in the estimates.
      epsilon, axis_name, use_scale, use_bias, scale_init, bias_init, dtype: as in `BatchNorm`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax.group_norms import EstimatedBatchNorm
      >>> x = jnp.array([[2.0]])
      >>> variables = EstimatedBatchNorm(train=False).init(jax.random.key(0), x)
      >>> _, new = EstimatedBatchNorm(train=True).apply(variables, x, mutable=["batch_stats"])
      >>> [round(float(new["batch_stats"][name][0]), 3) for name in ("mean", "var")]
      [0.2, 1.3]

    Reference:
      Qiao et al., `Micro-Batch Training with Batch-Channel Normalization and Weight
      Standardization <https://arxiv.org/abs/1903.10520>`_, 2019.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes each unit.

        Args:
          x: activations of shape (..., units); all axes but the last are averaged over.

        Returns:
          Array of the same shape.
        """
        flat = wide(x.reshape(-1, x.shape[-1]))
        scale, bias = self._affine(x)
        running_mean, running_var = self._estimates(x)
        if self.train and not self.is_initializing():
            if not len(flat):
                raise ValueError("running estimates cannot move by a batch of 0: leave it out")
            seen = jax.lax.stop_gradient(flat)
            deviation = seen - running_mean.value[None, :]
            mean = batch_mean(seen, self.axis_name)
            var = batch_mean(deviation * deviation, self.axis_name)
            running_mean.value = moved(running_mean.value, mean, self.momentum)
            running_var.value = moved(running_var.value, var, self.momentum)
        gain = jax.lax.rsqrt(running_var.value + self.epsilon) * wide(scale)
        y = (flat - running_mean.value[None, :]) * gain[None, :] + wide(bias)[None, :]
        return self._out(y.reshape(x.shape), x, scale, bias)


class BatchChannelNorm(nn.Module):
    r"""Batch-channel normalization: batch normalization, then group normalization.

    .. math:: y = \mathrm{GN}(\mathrm{BN}(x))

    Each has a scale and shift of its own. The batch normalization keeps units from being off for
    all samples, the group normalization makes up for estimates that small batches get wrong.

    Attributes:
      train: whether to use, and update, the statistics of the batch.
      groups: number of groups of units; divides their number.
      micro_batch: whether running estimates normalize in training too (`EstimatedBatchNorm`), for
        batches too small for statistics of their own (`BatchNorm`).
      momentum: weight of the new batch in the running estimates.
      axis_name: as in `BatchNorm`.
      dtype: of the result; None for what input and parameters promote to.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import BatchChannelNorm
      >>> norm = BatchChannelNorm(train=True, groups=2)
      >>> variables = norm.init(jax.random.key(0), jnp.ones((3, 4)))
      >>> sorted(variables["params"])
      ['batch', 'channel']

    Reference:
      Qiao et al., `Micro-Batch Training with Batch-Channel Normalization and Weight
      Standardization <https://arxiv.org/abs/1903.10520>`_, 2019.
    """

    train: bool
    groups: int
    micro_batch: bool = False
    momentum: float = 0.1
    axis_name: AxisName = None
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes each unit over the batch, then each sample over groups of units.

        Args:
          x: activations of shape (batch, ..., units).

        Returns:
          Array of the same shape.

        Raises:
          ValueError: if the groups do not divide the units, or there is one example only to train
            on and `micro_batch` is False.
        """
        norm = EstimatedBatchNorm if self.micro_batch else BatchNorm
        batch = norm(
            train=self.train, momentum=self.momentum, axis_name=self.axis_name, name="batch"
        )
        return _channel(self.groups, "channel", self.dtype)(batch(x))


@functools.cache
def batch_channel_norm(groups: int, micro_batch: bool = False) -> Callable[..., nn.Module]:
    r"""`BatchChannelNorm` as a value that a model takes.

    .. math:: y = \mathrm{GN}(\mathrm{BN}(x))

    Args:
      groups: number of groups; divides the number of units.
      micro_batch: whether running estimates normalize in training too.

    Returns:
      Function ``norm(train=..., name=...)``. Its layer raises ValueError where the groups do not
      divide the units.

    Example:
      >>> from enorm_jax.group_norms import batch_channel_norm
      >>> batch_channel_norm(20)(train=False).groups
      20

    Reference:
      Qiao et al., `Micro-Batch Training with Batch-Channel Normalization and Weight
      Standardization <https://arxiv.org/abs/1903.10520>`_, 2019.
    """
    return functools.partial(BatchChannelNorm, groups=groups, micro_batch=micro_batch)
