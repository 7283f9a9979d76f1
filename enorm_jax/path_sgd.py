"""Path-SGD: steps that do not depend on how a ReLU network is rescaled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from enorm_jax.chain import chain
from enorm_jax.chain_guard import require_all
from enorm_jax.groups import Params
from enorm_jax.scaling import wide

Network = Callable[[Params], jax.Array]


class PathState(NamedTuple):
    """State of `scale_by_path`.

    Attributes:
      level: what κ is measured by, a scalar: its harmonic mean at the start, or 1.
    """

    level: jax.Array


def scale_by_path(
    network: Network | None = None, *, relative: bool = True
) -> optax.GradientTransformation:
    r"""Divides each weight's gradient by the squared paths through it.

    .. math::
        u_e = g_e \, \bar\kappa / \kappa_e, \quad
        \kappa_e = \sum_{\text{paths through } e} \; \prod_{f \ne e} w_f^2
                 = \partial \gamma^2 / \partial w_e^2

    where :math:`\gamma^2` is the summed output of the network with squared weights for inputs of
    one; a bias is the weight of an input that is always one. Where a hidden unit is rescaled, a
    weight into it becomes d w, its gradient g / d and its κ becomes κ / d², so that its step is d
    times what it was, and likewise for the weights out of it: a step from a given state commutes
    with rescaling.

    κ grows as 2^depth in He-initialized networks. With `relative` it counts in units of its
    harmonic mean at the start, so that learning rates are as large as SGD's. Where the start itself
    was rescaled, that mean, and with it the unit of the learning rate, is another.

    A weight with κ = 0, as those out of a dead unit, or that `network` does not use, keeps its
    gradient. κ is a product over the depth and has to fit float32, whose range
    He-initialized networks leave beyond some 100 layers.

    Args:
      network: function from the squared parameters to γ²; None for a chain of dense layers, see
        `path_norm`. For a Flax module without normalization:
        ``lambda squares: model.apply({"params": squares}, jnp.ones((1, ...))).sum()``.
      relative: whether to multiply by κ̄, the harmonic mean of κ at initialization.

    Returns:
      An optax transformation, to be followed by weight decay and the learning rate: decay after
      it commutes with rescaling too.

    Raises:
      ValueError: in init or update, if there is no network and the parameters are no chain; in
        update, without parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax import scale_by_path
      >>> params = {"layer_00": {"kernel": jnp.array([[2.0]])},
      ...           "layer_01": {"kernel": jnp.array([[3.0]])}}
      >>> path = scale_by_path(relative=False)
      >>> updates, _ = path.update(params, path.init(params), params)  # the gradient is w here
      >>> [float(layer["kernel"][0, 0]) for layer in updates.values()]  # 2 / 3², 3 / 2²
      [0.2222222238779068, 0.75]

    Reference:
      Neyshabur et al., `Path-SGD: Path-Normalized Optimization in Deep Neural Networks
      <https://arxiv.org/abs/1506.02617>`_, NIPS 2015.
    """
    gamma = path_norm if network is None else network

    def init(params: Params) -> PathState:
        require_all("scale_by_path sums over all paths", params)
        if not relative:
            return PathState(jnp.ones(()))
        leaves = jax.tree.leaves(path_weights(params, gamma))
        inverse = sum(jnp.sum(jnp.where(k > 0, 1 / k, 0.0)) for k in leaves)
        count = sum(jnp.sum(k > 0, dtype=k.dtype) for k in leaves)
        return PathState(jnp.where(count > 0, count / inverse, 1.0))

    def update(
        updates: Any, state: PathState, params: Params | None = None
    ) -> tuple[Any, PathState]:
        if params is None:
            raise ValueError("scale_by_path needs the parameters: optimizer.update(g, state, p)")

        def divided(g: jax.Array, k: jax.Array) -> jax.Array:
            used = k > 0
            scaled = wide(g) * (state.level / jnp.where(used, k, 1.0))
            return jnp.where(used, scaled.astype(g.dtype), g)

        return jax.tree.map(divided, updates, path_weights(params, gamma)), state

    return optax.GradientTransformation(init, update)


def path_weights(params: Params, network: Network | None = None) -> Any:
    r"""κ of every parameter: the sum over paths through it of the other squared weights' product.

    .. math:: \kappa_e = \partial \gamma^2 / \partial w_e^2

    Args:
      params: parameters.
      network: function from the squared parameters to γ²; None for a chain of dense layers.

    Returns:
      κ, the structure and shapes of `params`, in float32 at least.

    Raises:
      ValueError: as `path_norm`, if there is no network.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.path_sgd import path_weights
      >>> params = {"layer_00": {"kernel": jnp.array([[2.0]])},
      ...           "layer_01": {"kernel": jnp.array([[3.0]])}}
      >>> [float(layer["kernel"][0, 0]) for layer in path_weights(params).values()]
      [9.0, 4.0]

    Reference:
      Neyshabur et al., `Path-SGD: Path-Normalized Optimization in Deep Neural Networks
      <https://arxiv.org/abs/1506.02617>`_, NIPS 2015.
    """
    squares = jax.tree.map(lambda w: jnp.square(wide(w)), params)
    return jax.grad(path_norm if network is None else network)(squares)


def path_norm(squares: Params) -> jax.Array:
    r"""γ² of a chain of dense layers: all paths' squared weights, multiplied along and summed.

    .. math:: \gamma^2 = \sum_j v_L[j], \quad v_k = v_{k-1} W_k^{2} + b_k^2, \quad v_0 = 1

    Args:
      squares: squared parameters of a chain, see `chain`.

    Returns:
      A scalar.

    Raises:
      ValueError: if the parameters are no chain, or hold normalization layers or gains.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.path_sgd import path_norm
      >>> float(path_norm({"layer_00": {"kernel": jnp.array([[4.0, 1.0]])},
      ...                  "layer_01": {"kernel": jnp.array([[9.0], [1.0]])}}))
      37.0
    """
    names = chain(squares)
    others = [name for name in squares if name not in names]
    wrong = [name for name in names if set(squares[name]) - {"kernel", "bias"}]
    if others or wrong:
        raise ValueError(
            f"{(others + wrong)[0]}: paths run through dense layers alone, without normalization; "
            "give a network of your own"
        )
    first = squares[names[0]]["kernel"]
    v = jnp.ones(first.shape[0], first.dtype)
    for name in names:
        layer = squares[name]
        # As a sum, not a product, it takes one pass over the weights, and so does its gradient.
        v = jnp.sum(v[:, None] * layer["kernel"], axis=0)
        if "bias" in layer:
            v = v + layer["bias"]
    return v.sum()
