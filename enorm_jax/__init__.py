"""Network normalization in JAX: ENorm and its rivals, and the study that compares them."""

from enorm_jax.enorm import cumulative_scales as cumulative_scales
from enorm_jax.enorm import cycle_scales as cycle_scales
from enorm_jax.enorm import energy as energy
from enorm_jax.enorm import enorm_step as enorm_step
from enorm_jax.enorm import rescale as rescale
from enorm_jax.models import FullyConnected as FullyConnected
from enorm_jax.norms import BatchNorm as BatchNorm
