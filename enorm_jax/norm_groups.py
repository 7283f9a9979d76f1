"""Groups of a chain whose units a normalization layer's scale and shift produce."""

import itertools
from typing import Any

from enorm_jax.chain import chain
from enorm_jax.groups import Groups, Params, RescalingGroup, slots_of


def norm_groups(params: Params) -> Groups:
    r"""The groups that leave a network with normalization layers as it is; see `enorm_step`.

    .. math::
        y = \mathrm{relu}(\gamma_i \hat x_i + \beta_i): \quad
        \gamma_i \leftarrow d_i \gamma_i, \;
        \beta_i \leftarrow d_i \beta_i, \;
        W_{k+1}[i, :] \leftarrow W_{k+1}[i, :] / d_i

    A normalization layer undoes any scaling of the kernel before it, so that its own scale is the
    weight into each unit. `infer_groups` finds the same groups in any network; here names say them.

    Args:
      params: layers of a `FullyConnected` network, ``layer_00`` ... with kernels and ``norm_00``
        ... with scales and shifts; in batch-channel normalization the channel's.

    Returns:
      One group per hidden layer, taken as checked.

    Raises:
      ValueError: if the layers are no chain, or a hidden layer has no scale behind it.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import BatchNorm, FullyConnected
      >>> from enorm_jax.norm_groups import norm_groups
      >>> model = FullyConnected(depth=1, width=4, norm=BatchNorm)
      >>> params = model.init(jax.random.key(0), jnp.ones((2, 3)), train=False)["params"]
      >>> [(g.producers[0].name, g.consumers[0].name) for g in norm_groups(params)]
      [('norm_00/scale', 'layer_01/kernel'), ('norm_01/scale', 'layer_02/kernel')]
    """
    slot = slots_of(params)
    groups = []
    for before, after in itertools.pairwise(chain(params)):
        name = before.replace("layer", "norm")
        inner: Any = params.get(name, {})
        place = (name, "channel") if "channel" in inner else (name,)
        if "scale" not in inner.get("channel", inner):
            raise ValueError(
                f"{before} has no normalization layer {name} with a scale behind it: "
                "balance its kernel"
            )
        producer, consumer = slot(*place, "scale"), slot(after, "kernel")
        shifts = (slot(*place, "bias"),) if "bias" in inner.get("channel", inner) else ()
        groups.append(RescalingGroup(producer.shape[0], (producer,), (consumer,), shifts))
    return Groups(tuple(groups), checked=True)
