"""Network normalization in JAX: ENorm and its rivals, and the study that compares them."""

from enorm_jax.amplification import bias_amplification as bias_amplification
from enorm_jax.bias_gauge import advance_gauge as advance_gauge
from enorm_jax.bias_gauge import gauge_gradients as gauge_gradients
from enorm_jax.bias_gauge import initial_gauge as initial_gauge
from enorm_jax.degree_check import check_degrees as check_degrees
from enorm_jax.enorm import cumulative_scales as cumulative_scales
from enorm_jax.enorm import cycle_scales as cycle_scales
from enorm_jax.enorm import energy as energy
from enorm_jax.enorm import enorm_step as enorm_step
from enorm_jax.enorm import rescale as rescale
from enorm_jax.equalize import equalize as equalize
from enorm_jax.equi_normalize import equi_normalize as equi_normalize
from enorm_jax.groups import Groups as Groups
from enorm_jax.groups import RescalingGroup as RescalingGroup
from enorm_jax.groups import Slot as Slot
from enorm_jax.inference import check as check
from enorm_jax.inference import explain as explain
from enorm_jax.inference import infer_groups as infer_groups
from enorm_jax.models import FullyConnected as FullyConnected
from enorm_jax.norms import BatchNorm as BatchNorm
from enorm_jax.state_rescaling import enorm_step_with_state as enorm_step_with_state
from enorm_jax.state_rescaling import rescale_state as rescale_state
