r"""Biases that train as if the network had never been rescaled.

ENorm with c > 1 shrinks the middle of a deep network: S, the product of a unit's scales since the
start, falls to about :math:`c^{-n^2/8}` for n layers. The stored bias is S b and its gradient
g / S, so that a step moves the function as one of lr / S² would, and diverges. Multiplying the
gradient by S² moves b as in the network that was never rescaled:

.. math:: S b - \eta \, S^2 (g / S) = S (b - \eta g)

S is one vector per group and part of the training state: `initial_gauge` starts it,
`gauge_gradients` precedes the optimizer, `advance_gauge` follows ENorm.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from enorm_jax.groups import Groups, Params, chain_groups, require_groups
from enorm_jax.scaling import Scales
from enorm_jax.state_rescaling import vector_paths, weight_factors


def initial_gauge(params: Params, groups: Groups | None = None) -> Scales:
    """S of a network that was not rescaled yet: ones.

    Args:
      params: parameters.
      groups: what shares a unit's scale; None for a chain.

    Returns:
      Tuple of ones of shape (units of group k,), at least float32.

    Raises:
      ValueError: if there are no groups and the parameters are no chain.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax import initial_gauge
      >>> params = {f"layer_{k:02d}": {"kernel": jnp.ones((2, 2))} for k in range(3)}
      >>> [s.shape for s in initial_gauge(params)]
      [(2,), (2,)]
    """
    groups = chain_groups(params) if groups is None else groups
    require_groups(groups)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(params)}
    floating = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    widest = functools.reduce(jnp.promote_types, floating, jnp.float32)
    return tuple(jnp.ones(group.size, widest) for group in groups)


def advance_gauge(gauge: Scales, scales: Scales) -> Scales:
    r"""S after a rescaling: multiplied by its scales.

    .. math:: S_k \leftarrow S_k \, d_k

    Args:
      gauge: S before, one vector per group.
      scales: the rescaling's scales, likewise.

    Returns:
      S after, likewise.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax import advance_gauge
      >>> [float(s[0]) for s in advance_gauge((jnp.array([0.5]),), (jnp.array([0.5]),))]
      [0.25]
    """
    return jax.tree.map(lambda total, d: total * d.astype(total.dtype), gauge, scales)


def gauge_gradients(grads: Params, gauge: Scales, groups: Groups | None = None) -> Params:
    r"""Multiplies the gradients of biases and other vectors by S².

    .. math:: g_b \leftarrow S^2 g_b

    Args:
      grads: gradients with respect to the rescaled parameters, of their structure.
      gauge: S, one vector per group.
      groups: what shares a unit's scale; None for a chain.

    Returns:
      Gradients, those of producers and consumers as they were.

    Raises:
      ValueError: if the gauge does not fit the groups, or the groups the gradients.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax import gauge_gradients
      >>> grads = {"layer_00": {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)},
      ...          "layer_01": {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}}
      >>> grads = gauge_gradients(grads, (jnp.array([0.5]),))
      >>> [(float(g["kernel"][0, 0]), float(g["bias"][0])) for g in grads.values()]
      [(1.0, 0.25), (1.0, 1.0)]
    """
    vectors = vector_paths(grads, groups)
    factors = weight_factors(grads, gauge, groups)

    def apply(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if name not in vectors:
            return leaf
        return (leaf.astype(factors[name].dtype) * factors[name] ** 2).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(apply, grads)
