"""Equi-normalization (ENorm) of a chain of dense layers, on plain pytrees.

A ReLU network does not change when the weights into a hidden unit are multiplied by
d > 0 and the weights out of it are divided by d. ENorm picks, unit by unit, the d that
makes the norms on both sides equal (up to the factor `c`); repeated cycles with
``c = 1`` reach the one rescaling of the network with the least energy.

Everything here is a pure function of `params`, a mapping from layer names to layers::

    {"layer_00": {"kernel": (in, out), "bias": (out,)}, "layer_01": ..., "norm_00": ...}

Entries without a ``"kernel"`` (normalization layers) are left as they are.
Shapes: W_k is the kernel of layer k, (in, out); its column j feeds unit j of layer k,
its row i leaves unit i of layer k - 1. Scales are a tuple with one vector per hidden
layer: ``scales[k]`` has the shape (out of W_k,).
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from enorm_jax.groups import Params, chain

Scales = tuple[jax.Array, ...]
Order = Literal["sequential", "simultaneous"]
Bias = Literal["scale", "keep"]


def enorm_step(
    params: Params,
    c: jax.typing.ArrayLike = 1.0,
    *,
    p: float = 2,
    cycles: int = 1,
    order: Order = "sequential",
    balance_last: bool = True,
    bias: Bias = "scale",
) -> Params:
    r"""Balances the norms around every hidden unit, leaving a ReLU network's function as it is.

    .. math::
        d_k[i] = \sqrt{ \|W_{k+1}[i, :]\|_p / (c \, \|W_k[:, i]\|_p) }, \quad
        W_k[:, i] \leftarrow d_k[i] W_k[:, i], \;
        b_k[i] \leftarrow d_k[i] b_k[i], \;
        W_{k+1}[i, :] \leftarrow W_{k+1}[i, :] / d_k[i]

    Pure: works under `jit`, `vmap` (seeds on a leading axis), `scan` and `grad`. A unit
    with a zero or non-finite norm on either side keeps d = 1. A normalization layer after
    W_k undoes the scaling of its input; its own parameters are left alone, as in both
    public implementations, so that there the function does change.

    The study's code is the default; the original authors' is
    ``order="simultaneous", balance_last=False, bias="keep"``.

    Args:
      params: layers of a chain, names in order: ``{"layer_00": {"kernel": (in, out)}, ...}``.
      c: ratio of the norm of the outgoing to that of the incoming weights of a balanced
        unit, > 0. The papers use 1.2 for dense and 1.1 for convolutional networks. A traced
        `c` cannot be checked: a negative or infinite one makes the parameters NaN.
      p: norm, >= 1; `jnp.inf` gives cross-layer equalization.
      cycles: passes over the chain.
      order: ``"sequential"`` takes each norm after the layer before was rescaled
        (Gauss-Seidel), ``"simultaneous"`` takes all at the start of the cycle (Jacobi).
      balance_last: whether the last hidden layer is balanced against the output layer.
      bias: ``"scale"`` multiplies biases with their unit, ``"keep"`` leaves them as they are,
        which does not preserve the function.

    Returns:
      Rescaled parameters, same structure, shapes and dtypes.

    Raises:
      ValueError: if there is no kernel, two kernels do not chain, names are not in order,
        or `c`, `p`, `cycles` or `order` is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax import enorm_step
      >>> params = {"layer_00": {"kernel": jnp.full((1, 1), 8.0)},
      ...           "layer_01": {"kernel": jnp.full((1, 1), 2.0)}}
      >>> balanced = enorm_step(params, c=1.0)
      >>> [float(layer["kernel"][0, 0]) for layer in balanced.values()]
      [4.0, 4.0]

    Reference:
      Stock et al., `Equi-normalization of Neural Networks
      <https://arxiv.org/abs/1902.10416>`_, ICLR 2019.
    """
    # The barriers keep XLA from computing the optimizer's update again in every norm, and the
    # scales again for every weight: 3 % of a training step instead of 8 % on a CPU.
    params = jax.lax.optimization_barrier(params)
    scales = cumulative_scales(
        params, c, p=p, cycles=cycles, order=order, balance_last=balance_last
    )
    return rescale(params, jax.lax.optimization_barrier(scales), bias=bias)


def cycle_scales(
    params: Params,
    c: jax.typing.ArrayLike = 1.0,
    *,
    p: float = 2,
    order: Order = "sequential",
    balance_last: bool = True,
) -> Scales:
    """The scales d of one cycle, one vector per hidden layer; see `enorm_step`.

    Args:
      params: layers of a chain.
      c: ratio of outgoing to incoming norm, > 0.
      p: norm, >= 1.
      order: ``"sequential"`` or ``"simultaneous"``.
      balance_last: whether the last hidden layer is balanced; its d is 1 if not.

    Returns:
      Tuple of vectors, ``scales[k]`` of shape (width of hidden layer k,).

    Raises:
      ValueError: as `enorm_step`.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax import cycle_scales
      >>> params = {"layer_00": {"kernel": jnp.full((1, 1), 8.0)},
      ...           "layer_01": {"kernel": jnp.full((1, 1), 2.0)}}
      >>> [float(d[0]) for d in cycle_scales(params, c=1.0)]
      [0.5]
    """
    return cumulative_scales(params, c, p=p, cycles=1, order=order, balance_last=balance_last)


def cumulative_scales(
    params: Params,
    c: jax.typing.ArrayLike = 1.0,
    *,
    p: float = 2,
    cycles: int = 1,
    order: Order = "sequential",
    balance_last: bool = True,
) -> Scales:
    r"""The product of the scales of several cycles: what each hidden activation is multiplied by.

    .. math:: D_k = \prod_{t=1}^{cycles} d_k^{(t)}

    No kernel is rewritten on the way: with D, the rescaled kernel is
    ``W_k[i, j] * D_k[j] / D_{k-1}[i]``, and its norms need W_k alone.

    Args:
      params: layers of a chain.
      c: ratio of outgoing to incoming norm, > 0.
      p: norm, >= 1.
      cycles: number of cycles, >= 1.
      order: ``"sequential"`` or ``"simultaneous"``.
      balance_last: whether the last hidden layer is balanced.

    Returns:
      Tuple of vectors D_k of shape (width of hidden layer k,), for `rescale`.

    Raises:
      ValueError: as `enorm_step`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import cumulative_scales
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> params = {f"layer_{k:02d}": {"kernel": jax.random.normal(key, (4, 4))}
      ...           for k, key in enumerate(keys)}
      >>> [d.shape for d in cumulative_scales(params, c=1.2, cycles=50)]
      [(4,), (4,)]
    """
    _check_arguments(c, p, cycles, order)
    kernels = [_at_least_float32(params[name]["kernel"]) for name in chain(params)]
    balanced = len(kernels) - 1 if balance_last else len(kernels) - 2
    ones = tuple(jnp.ones(kernel.shape[1], kernel.dtype) for kernel in kernels[:-1])

    def cycle(total: Scales) -> Scales:
        new = list(total)
        for k in range(balanced):
            read = new if order == "sequential" else list(total)
            into = kernels[k]
            if k > 0:
                into = into / read[k - 1][:, None]
            incoming = _norm(into, p, axis=0)
            after = kernels[k + 1]
            if k + 1 < len(total):
                after = after * read[k + 1][None, :]
            outgoing = _norm(after, p, axis=1)
            new[k] = total[k] * _balance(incoming * total[k], outgoing / total[k], c)
        return tuple(new)

    total = cycle(ones)
    if cycles > 1:
        total = jax.lax.fori_loop(1, cycles, lambda _, scales: cycle(scales), total)
    return total


def rescale(params: Params, scales: Scales, *, bias: Bias = "scale") -> Params:
    r"""Multiplies each hidden unit's incoming weights and bias by d, and divides its outgoing by d.

    .. math::
        W_k[i, j] \leftarrow W_k[i, j] \, d_k[j] / d_{k-1}[i], \quad
        b_k[j] \leftarrow b_k[j] \, d_k[j]

    A ReLU network computes the same function before and after. Gradients scale inversely
    to weights: a momentum trace follows with ``rescale(trace, inverse)``, where
    ``inverse = jax.tree.map(jnp.reciprocal, scales)``.

    Args:
      params: layers of a chain.
      scales: one vector per hidden layer, ``scales[k]`` of shape (width of layer k,).
      bias: ``"scale"``, or ``"keep"`` to leave biases as they are.

    Returns:
      Rescaled parameters, same structure, shapes and dtypes.

    Raises:
      ValueError: if the scales do not fit the chain, or as `enorm_step`.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax import rescale
      >>> params = {"layer_00": {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)},
      ...           "layer_01": {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}}
      >>> scaled = rescale(params, (jnp.array([4.0]),))
      >>> [(float(layer["kernel"][0, 0]), float(layer["bias"][0])) for layer in scaled.values()]
      [(4.0, 4.0), (0.25, 1.0)]
    """
    names = chain(params)
    shapes = [params[name]["kernel"].shape for name in names]
    if [d.shape for d in scales] != [(shape[1],) for shape in shapes[:-1]]:
        raise ValueError(
            f"scales of shapes {[d.shape for d in scales]} do not fit the hidden layers "
            f"{dict(zip(names[:-1], (s[1] for s in shapes[:-1]), strict=True))}: "
            "give one vector per hidden layer"
        )
    after = dict(zip(names[:-1], scales, strict=True))
    before = dict(zip(names[1:], scales, strict=True))

    def apply(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        name, kind = (getattr(key, "key", None) for key in (path + path)[:2])
        if len(path) != 2 or name not in names or kind not in ("kernel", "bias"):
            return leaf
        if kind == "bias" and bias == "keep":
            return leaf
        wide = _at_least_float32(leaf)
        factor = after.get(name, jnp.ones(leaf.shape[-1:], wide.dtype))
        wide = wide * (factor[None, :] if kind == "kernel" else factor)
        if kind == "kernel" and name in before:
            wide = wide * jnp.reciprocal(before[name])[:, None]
        return wide.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(apply, params)


def energy(params: Params) -> jax.Array:
    r"""The squared norm of all kernels of the chain.

    .. math:: E = \sum_k \|W_k\|_F^2

    Args:
      params: layers of a chain.

    Returns:
      A scalar; at least float32.

    Raises:
      ValueError: as `enorm_step`.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax import energy
      >>> float(energy({"layer_00": {"kernel": jnp.full((2, 3), 2.0)}}))
      24.0
    """
    kernels = [_at_least_float32(params[name]["kernel"]) for name in chain(params)]
    return sum((jnp.sum(k * k) for k in kernels[1:]), start=jnp.sum(kernels[0] * kernels[0]))


def _check_arguments(c: Any, p: float, cycles: int, order: str) -> None:
    if jnp.ndim(c) != 0:
        raise ValueError(f"c must be a single number, got shape {jnp.shape(c)}")
    if not isinstance(c, jax.core.Tracer) and not 0 < float(c) < float("inf"):
        raise ValueError(f"c must be positive and finite, got {c}")
    if not p >= 1:
        raise ValueError(f"p must be at least 1, got {p}")
    if cycles < 1:
        raise ValueError(f"cycles must be at least 1, got {cycles}")
    if order not in ("sequential", "simultaneous"):
        raise ValueError(f"order must be 'sequential' or 'simultaneous', got {order!r}")


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def _norm(x: jax.Array, p: float, axis: int) -> jax.Array:
    """p-norm along an axis, with gradient 0 where the norm is 0."""
    if p == jnp.inf:
        return jnp.max(jnp.abs(x), axis=axis)
    powers = x * x if p == 2 else jnp.abs(x) ** p
    total = jnp.sum(powers, axis=axis)
    positive = total > 0
    safe = jnp.where(positive, total, 1)
    root = jnp.sqrt(safe) if p == 2 else safe ** (1 / p)
    return jnp.where(positive, root, 0)


def _balance(incoming: jax.Array, outgoing: jax.Array, c: jax.typing.ArrayLike) -> jax.Array:
    """sqrt(outgoing / (c incoming)), or 1 where the norms have no positive finite ratio."""
    usable = (incoming > 0) & (outgoing > 0) & jnp.isfinite(incoming) & jnp.isfinite(outgoing)
    ratio = jnp.where(usable, outgoing, 1) / jnp.where(usable, incoming, 1)
    usable &= (ratio > 0) & jnp.isfinite(ratio)
    ratio = jnp.where(usable, ratio, 1) / jnp.asarray(c, ratio.dtype)
    return jnp.where(usable, jnp.sqrt(ratio), 1)
