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

from enorm_jax.amplification import bias_amplification as bias_amplification
from enorm_jax.bias_gauge import advance_gauge as advance_gauge
from enorm_jax.bias_gauge import gauge_gradients as gauge_gradients
from enorm_jax.bias_gauge import initial_gauge as initial_gauge
from enorm_jax.conv_models import FullyConvolutional as FullyConvolutional
from enorm_jax.conv_models import ResNet as ResNet
from enorm_jax.degree_check import check_degrees as check_degrees
from enorm_jax.enorm import cumulative_scales as cumulative_scales
from enorm_jax.enorm import cycle_scales as cycle_scales
from enorm_jax.enorm import energy as energy
from enorm_jax.enorm import enorm_step as enorm_step
from enorm_jax.enorm import rescale as rescale
from enorm_jax.equalize import equalize as equalize
from enorm_jax.equi_normalize import EquiNormalizeState as EquiNormalizeState
from enorm_jax.equi_normalize import equi_normalize as equi_normalize
from enorm_jax.group_norms import BatchChannelNorm as BatchChannelNorm
from enorm_jax.group_norms import group_norm as group_norm
from enorm_jax.group_norms import layer_norm as layer_norm
from enorm_jax.groups import Groups as Groups
from enorm_jax.groups import RescalingGroup as RescalingGroup
from enorm_jax.groups import Slot as Slot
from enorm_jax.inference import check as check
from enorm_jax.inference import explain as explain
from enorm_jax.inference import infer_groups as infer_groups
from enorm_jax.kernels import WeightNormConv as WeightNormConv
from enorm_jax.kernels import WeightNormDense as WeightNormDense
from enorm_jax.kernels import WeightStandardizedConv as WeightStandardizedConv
from enorm_jax.kernels import WeightStandardizedDense as WeightStandardizedDense
from enorm_jax.models import FullyConnected as FullyConnected
from enorm_jax.nnx_groups import infer_groups_nnx as infer_groups_nnx
from enorm_jax.norms import BatchNorm as BatchNorm
from enorm_jax.path_sgd import PathState as PathState
from enorm_jax.path_sgd import scale_by_path as scale_by_path
from enorm_jax.state_rescaling import enorm_step_with_state as enorm_step_with_state
from enorm_jax.state_rescaling import rescale_state as rescale_state
