"""Network normalization in JAX: ENorm and its rivals, and the study that compares them.

Balance a network's norms while it trains:
  enorm_step: one cycle on parameters, after the optimizer's step.
  enorm_step_with_state: the same, with the optimizer's state.
  equi_normalize: an optax optimizer that does both after each of its steps.
  check_degrees: how an optimizer's state scales, for one that `equi_normalize` does not know.

Tell which units can be rescaled:
  infer_groups, infer_groups_nnx: found in any Flax or plain JAX network.
  explain, check: what was found and why not the rest, and whether the function stays.
  Groups, RescalingGroup, Slot: what they find; also written by hand.

Parts of a cycle:
  cycle_scales, rescale, rescale_state: a cycle's scales, and what they do to parameters and state.
  cumulative_scales, energy: of several cycles; what balancing makes small.
  bias_amplification: how much balancing enlarges the steps of biases.
  initial_gauge, gauge_gradients, advance_gauge: biases trained as if nothing were rescaled.
  equalize: equal ranges on both sides of every unit, for quantization.

Other normalizations, in any network:
  BatchNorm, BatchChannelNorm, group_norm, layer_norm: of activations.
  WeightNormDense, WeightNormConv, WeightStandardizedDense, WeightStandardizedConv: of kernels.
  scale_by_path: Path-SGD, of gradients.

Networks:
  FullyConnected, FullyConvolutional, ResNet.

Each has its equation and an example in its docstring; what trains and draws the study are the
package's other modules.
"""

from enorm_jax.amplification import bias_amplification
from enorm_jax.bias_gauge import advance_gauge, gauge_gradients, initial_gauge
from enorm_jax.conv_models import FullyConvolutional, ResNet
from enorm_jax.degree_check import check_degrees
from enorm_jax.enorm import cumulative_scales, cycle_scales, energy, enorm_step, rescale
from enorm_jax.equalize import equalize
from enorm_jax.equi_normalize import EquiNormalizeState, equi_normalize
from enorm_jax.group_norms import BatchChannelNorm, group_norm, layer_norm
from enorm_jax.groups import Groups, RescalingGroup, Slot
from enorm_jax.inference import check, explain, infer_groups
from enorm_jax.kernels import (
    WeightNormConv,
    WeightNormDense,
    WeightStandardizedConv,
    WeightStandardizedDense,
)
from enorm_jax.models import FullyConnected
from enorm_jax.nnx_groups import infer_groups_nnx
from enorm_jax.norms import BatchNorm
from enorm_jax.path_sgd import PathState, scale_by_path
from enorm_jax.state_rescaling import enorm_step_with_state, rescale_state

# In the docstring's order, which is that of a reference page too.
__all__ = [  # noqa: RUF022
    "enorm_step",
    "enorm_step_with_state",
    "equi_normalize",
    "check_degrees",
    "infer_groups",
    "infer_groups_nnx",
    "explain",
    "check",
    "Groups",
    "RescalingGroup",
    "Slot",
    "cycle_scales",
    "rescale",
    "rescale_state",
    "cumulative_scales",
    "energy",
    "bias_amplification",
    "initial_gauge",
    "gauge_gradients",
    "advance_gauge",
    "equalize",
    "BatchNorm",
    "BatchChannelNorm",
    "group_norm",
    "layer_norm",
    "WeightNormDense",
    "WeightNormConv",
    "WeightStandardizedDense",
    "WeightStandardizedConv",
    "scale_by_path",
    "FullyConnected",
    "FullyConvolutional",
    "ResNet",
    "EquiNormalizeState",
    "PathState",
]
