"""Finds the rescaling groups of a network by reading its jaxpr."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from enorm_jax.groups import Groups, Params, require_arrays
from enorm_jax.inference import control as _control
from enorm_jax.inference import elementwise as _elementwise
from enorm_jax.inference import linear as _linear
from enorm_jax.inference import movement as _movement
from enorm_jax.inference import reductions as _reductions
from enorm_jax.inference import writing as _writing
from enorm_jax.inference.checking import check as check
from enorm_jax.inference.checking import dtype_of
from enorm_jax.inference.collect import collect
from enorm_jax.inference.interpret import Trace
from enorm_jax.inference.report import explain as explain
from enorm_jax.inference.values import Fixed, Value, View

RULE_MODULES = (_control, _elementwise, _linear, _movement, _reductions, _writing)


def infer_groups(
    apply_fn: Callable[..., Any], params: Params, *inputs: Any, check: bool = True
) -> Groups:
    r"""Finds which hidden units of a network can be rescaled, and the tensors around them.

    The function's jaxpr is read once, with a unit of scale in place of every number. A kernel
    leads from the units it reads to new ones, whatever adds, compares or pools values makes
    their units one, and what is not positively homogeneous,

    .. math:: f(d x) = d f(x) \quad (d > 0),

    fixes them at scale 1, as the function's outputs are. A parameter that is used twice scales
    alike in both uses; operations that are not known fix all that they touch.

    Constants that the function closes over count as data: they may change, literals may not.

    Args:
      apply_fn: function ``(params, *inputs) -> outputs``, such as
        ``lambda params, x: model.apply({"params": params}, x)``. Outputs are any pytree.
      params: pytree of the parameters that are trained; not a module's variables, whose running
        statistics would be taken for parameters.
      *inputs: example inputs. A small batch serves as well as a large one. Parameters and
        inputs may be `jax.ShapeDtypeStruct` if they are not checked.
      check: whether to run `check` on the result. Without, `enorm_step` refuses it.

    Returns:
      The groups, in network order, with what is left alone and why; see `explain`.

    Raises:
      ValueError: if the check fails, or has shapes instead of numbers, as within `jax.jit`; if
        params are a module's variables, or missing.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import infer_groups
      >>> params = {"conv": jnp.ones((3, 3, 1, 4)), "dense": jnp.ones((16, 2))}
      >>> def apply(params, x):
      ...     y = jax.lax.conv_general_dilated(
      ...         x, params["conv"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
      ...     return jax.nn.relu(y).reshape(x.shape[0], -1) @ params["dense"]
      >>> (group,) = infer_groups(apply, params, jnp.ones((1, 4, 4, 1)))
      >>> group.size, [slot.name for slot in group.producers + group.consumers]
      (4, ['conv', 'dense'])

    Reference:
      Stock et al., `Equi-normalization of Neural Networks
      <https://arxiv.org/abs/1902.10416>`_, ICLR 2019, for the groups of skip connections.
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    if not inputs and [path for path, _ in leaves] == [()]:
        raise ValueError(
            "there is one array and no input: write infer_groups(apply_fn, params, *inputs), or of "
            "a Flax NNX module infer_groups_nnx(model, *inputs)"
        )
    require_arrays(params)
    untrained = [name for name in ("batch_stats", "cache") if _has(params, name)]
    if untrained and _has(params, "params"):
        raise ValueError(
            f"these are a module's variables, of which {untrained[0]} is not trained: pass "
            "variables['params'], and let the function close over the others"
        )
    closed = jax.make_jaxpr(apply_fn)(params, *inputs)
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    trace = Trace(names, [tuple(np.shape(leaf)) for _, leaf in leaves])
    values = [_parameter(trace, number, leaf) for number, (_, leaf) in enumerate(leaves)]
    data: list[Value] = [Fixed()] * (len(closed.jaxpr.invars) - len(values))
    jaxpr, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    consts: list[Value] = [Fixed()] * len(jaxpr.constvars)
    outputs = trace.run(jaxpr, consts, values + data)
    trace.because("output of the network")
    trace.pin(*outputs)
    groups = collect(trace)
    return _check(apply_fn, params, groups, *inputs) if check else groups


_check = check


def _has(params: Params, name: str) -> bool:
    return isinstance(params, Mapping) and name in params


def _parameter(trace: Trace, number: int, leaf: Any) -> Value:
    if not jnp.issubdtype(dtype_of(leaf), jnp.floating):
        return Fixed()
    return View(trace.uses.index(number), frozenset([number]))
