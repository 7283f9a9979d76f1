"""Groups of Flax NNX modules, which hold their parameters themselves."""

import sys
from typing import Any

from enorm_jax.groups import Groups, Params
from enorm_jax.inference import infer_groups


def infer_groups_nnx(
    model: Any, *inputs: Any, wrt: Any = None, check: bool = True, **keywords: Any
) -> Groups:
    """Finds the rescaling groups of a Flax NNX module; see `infer_groups`.

    They name the arrays that `flax.nnx.Optimizer` hands to optax, which are
    ``nnx.as_pure(nnx.state(model, wrt))``.

    Args:
      model: an `nnx.Module`, as it trains (``model.train()``). It is called on a copy, so that
        running statistics stay as they are.
      *inputs: example inputs of its call.
      wrt: which parameters are trained, as for `nnx.Optimizer`; None for `nnx.Param`. Others stay
        as they are, and so do the scales of units between them.
      check: whether to check the result, as for `infer_groups`.
      **keywords: further arguments of its call, such as ``train=True`` or ``rngs=nnx.Rngs(0)``.

    Returns:
      The groups, for ``equi_normalize(optimizer, groups=groups)`` in an `nnx.Optimizer`, or for
      ``nnx.update(model, enorm_step(params, groups=groups))``.

    Raises:
      ValueError: as `infer_groups`.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from enorm_jax import explain, infer_groups_nnx
      >>> class Network(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.hidden, self.out = nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs)
      ...     def __call__(self, x):
      ...         return self.out(nnx.relu(self.hidden(x)))
      >>> print(explain(infer_groups_nnx(Network(nnx.Rngs(0)), jnp.ones((1, 2)))))
      group  units  producers         consumers      vectors
      0      3      hidden/kernel[1]  out/kernel[0]  hidden/bias[0]
      <BLANKLINE>
      left alone            units  because of
      out/bias, out/kernel  1      output of the network

    Reference:
      Stock et al., `Equi-normalization of Neural Networks
      <https://arxiv.org/abs/1902.10416>`_, ICLR 2019, for the groups of skip connections.
    """
    from flax import nnx  # time that users of other libraries need not spend

    graph, state = nnx.split(model)
    params = nnx.as_pure(nnx.state(model, nnx.Param if wrt is None else wrt))

    def apply(params: Params, *inputs: Any) -> Any:
        copy = nnx.merge(graph, nnx.merge_state(state, params), copy=True)
        # Of what is not traced here, such as a stream of random keys, nothing may change.
        copies = {
            name: nnx.clone(value) if isinstance(value, nnx.Pytree) else value
            for name, value in keywords.items()
        }
        return copy(*inputs, **copies)

    return infer_groups(apply, params, *inputs, check=check)


def without_variables(params: Params) -> Params:
    """Parameters with arrays in place of Flax NNX's variables.

    `flax.nnx.Optimizer` initializes an optimizer with variables, and updates with their arrays.

    Args:
      params: any pytree.

    Returns:
      The same, if there are no variables in it.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from enorm_jax.nnx_groups import without_variables
      >>> without_variables({"scale": nnx.Param(jnp.ones(()))})
      {'scale': Array(1., dtype=float32)}
    """
    if "flax.nnx" not in sys.modules:  # where nobody has made variables
        return params
    from flax import nnx

    return nnx.as_pure(params)
