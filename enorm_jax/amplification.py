r"""How much larger the steps of biases become in a network that ENorm balances.

A unit's stored bias is S b, where S is the product of its scales since the start, and its gradient
is g / S: a step of rate η moves b as one of η / S² would in the network that was never rescaled.
He's initialization makes the biases of all layers about equally effective there, so that the
largest 1 / S² says how near training is to diverging: see `experiments/divergence.py`.
"""

import jax
import jax.numpy as jnp

from enorm_jax.enorm import Order, cumulative_scales
from enorm_jax.groups import Groups, Params


def bias_amplification(
    params: Params,
    c: jax.typing.ArrayLike = 1.0,
    *,
    groups: Groups | None = None,
    cycles: int = 200,
    order: Order = "sequential",
    balance_last: bool = True,
) -> jax.Array:
    r"""The largest factor by which balancing a network amplifies its biases' learning rate.

    .. math:: A = \max_{k, i} S_k[i]^{-2}, \quad S_k = \prod_{t=1}^{cycles} d_k^{(t)}

    where d are the scales of `enorm_step`. For a chain of n layers whose kernels start with
    Frobenius norms F of geometric mean F̄, evenly shared by their units, S settles at

    .. math:: S_k^{-2} = c^{k (n - k)} \prod_{j \le k} F_j^2 / \bar F^2

    so that A grows with depth as :math:`c^{n^2 / 4}`: 9, 240, 27,000 and 5·10⁸ for c = 1.2 and
    p = 5, 9, 13, 19 (n = p + 2). The study's last kernel is small, which makes it 8 to 11 times
    as much, and a few units lie up to twice above the rest. 196 cycles, the study's first epoch,
    reach 0.75 of it at p = 19 and more in shallower networks.

    Args:
      params: parameters of the network that was never rescaled, as `enorm_step` takes them,
        with or without biases.
      c: ratio of outgoing to incoming norm, > 0.
      groups: what shares a unit's scale, from `infer_groups`; None for a chain. All count, with
        biases or without.
      cycles: number of cycles, one for each step of training; 200 are about an epoch of the
        study.
      order: ``"sequential"`` or ``"simultaneous"``.
      balance_last: whether the last group is balanced.

    Returns:
      A scalar; infinite if it is beyond the dtype of the parameters.

    Raises:
      ValueError: as `enorm_step`.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax import bias_amplification
      >>> params = {f"layer_{k:02d}": {"kernel": jnp.ones((4, 4))} for k in range(6)}
      >>> round(float(bias_amplification(params, c=1.2)), 3), round(1.2 ** (3 * 3), 3)
      (5.16, 5.16)

    Reference:
      Stock et al., `Equi-normalization of Neural Networks
      <https://arxiv.org/abs/1902.10416>`_, ICLR 2019, for d; the amplification is this
      project's.
    """
    scales = cumulative_scales(
        params, c, groups=groups, cycles=cycles, order=order, balance_last=balance_last
    )
    if not scales:  # no hidden units
        return jnp.ones(())
    smallest = jnp.stack([jnp.min(s) for s in scales])
    return jnp.max(jnp.square(1 / smallest))
