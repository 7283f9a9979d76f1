"""ENorm's laws, each against the equation in float64 NumPy."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from enorm_jax import cumulative_scales, cycle_scales, energy, enorm_step, rescale
from enorm_jax.chain import chain

VARIANTS = [
    {},
    {"p": 1},
    {"p": 3.5},
    {"p": 60},
    {"p": jnp.inf},
    {"cycles": 4},
    {"order": "simultaneous"},
    {"order": "simultaneous", "cycles": 3},
    {"balance_last": False},
    {"order": "simultaneous", "balance_last": False, "p": 1, "cycles": 2},
]
# Few shapes, so that hypothesis spends its time on numbers and not on compiling.
sizes_strategy = st.sampled_from([(5, 7, 3), (1, 1, 1, 1), (4, 6, 2, 5, 3)])
c_strategy = st.floats(0.5, 2.0)
seed_strategy = st.integers(0, 2**31)


STATIC = ("p", "cycles", "order", "balance_last")
step = jax.jit(enorm_step, static_argnames=STATIC)
scales_of = jax.jit(cumulative_scales, static_argnames=STATIC)


def network(sizes, seed=0):
    """Kernels and biases in float64 whose units differ in scale."""
    rng = np.random.default_rng(seed)
    pairs = list(itertools.pairwise(sizes))
    kernels = [rng.normal(size=s) * rng.uniform(0.3, 3, (1, s[1])) for s in pairs]
    return kernels, [rng.normal(size=s[1]) for s in pairs]


def as_params(kernels, biases=None):
    biases = biases or [None] * len(kernels)
    return {
        f"layer_{k:02d}": {"kernel": jnp.asarray(w, jnp.float32)}
        | ({} if b is None else {"bias": jnp.asarray(b, jnp.float32)})
        for k, (w, b) in enumerate(zip(kernels, biases, strict=True))
    }


def lists(params):
    return [layer["kernel"] for layer in params.values()], [
        layer["bias"] for layer in params.values()
    ]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@given(sizes=sizes_strategy, c=c_strategy, seed=seed_strategy)
def test_follows_the_equation(variant, sizes, c, seed):
    kernels, biases = network(sizes, seed)
    want = reference.enorm(kernels, biases, c, **variant)
    params = as_params(kernels, biases)
    new = step(params, c, **variant)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, params)
    chex.assert_trees_all_close((*lists(new),), want[:2], rtol=2e-5, atol=1e-6)
    chex.assert_trees_all_close(
        list(scales_of(params, c, **variant)), want[2], rtol=2e-5, atol=1e-6
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_function_is_unchanged(variant, rng):
    kernels, biases = network([5, 7, 4, 6, 3])
    x = rng.normal(size=(20, 5))
    new = lists(step(as_params(kernels, biases), 1.3, **variant))
    before, _ = reference.forward(kernels, biases, x)
    after, _ = reference.forward(*[[np.float64(a) for a in arrays] for arrays in new], x)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


@given(sizes=sizes_strategy, seed=seed_strategy)
def test_energy_never_rises_at_c_1(sizes, seed):
    params = as_params(*network(sizes, seed))
    for _ in range(5):
        new = step(params, 1.0)
        assert float(energy(new)) <= float(energy(params)) * (1 + 1e-6)
        params = new


def test_energy_is_the_sum_of_squares(rng):
    kernels, biases = network([4, 3, 2])
    want = sum((w**2).sum() for w in kernels)
    np.testing.assert_allclose(energy(as_params(kernels, biases)), want, rtol=1e-6)


@given(sizes=sizes_strategy, c=c_strategy, seed=seed_strategy)
def test_fixed_point_has_outgoing_norms_c_times_incoming(sizes, c, seed):
    kernels, _ = lists(step(as_params(*network(sizes, seed)), c, cycles=300))
    for before, after in itertools.pairwise(kernels):
        incoming, outgoing = (np.linalg.norm(w, axis=a) for w, a in ((before, 0), (after, 1)))
        np.testing.assert_allclose(outgoing, c * incoming, rtol=1e-4)


@given(sizes=sizes_strategy, seed=seed_strategy)
def test_random_rescaling_is_undone(sizes, seed):
    params = as_params(*network(sizes, seed))
    rng = np.random.default_rng(seed)
    scales = tuple(jnp.asarray(rng.uniform(0.2, 5, n), jnp.float32) for n in sizes[1:-1])
    settled = [step(p, 1.0, cycles=300) for p in (params, rescale(params, scales))]
    chex.assert_trees_all_close(*settled, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("order", ["sequential", "simultaneous"])
def test_both_orders_reach_the_same_fixed_point(order):
    params = as_params(*network([5, 6, 4, 3]))
    settled = enorm_step(params, 1.2, cycles=400, order=order)
    want = reference.enorm(*network([5, 6, 4, 3]), 1.2, cycles=400)
    chex.assert_trees_all_close((*lists(settled),), want[:2], rtol=1e-4, atol=1e-5)


def test_permuting_hidden_units_commutes(rng):
    params = as_params(*network([5, 6, 4, 3]))
    order = rng.permutation(6)

    def permute(tree):
        first, second = tree["layer_00"], tree["layer_01"]
        return tree | {
            "layer_00": {"kernel": first["kernel"][:, order], "bias": first["bias"][order]},
            "layer_01": second | {"kernel": second["kernel"][order]},
        }

    chex.assert_trees_all_close(
        enorm_step(permute(params), 1.2), permute(enorm_step(params, 1.2)), rtol=1e-6
    )


def test_cycle_scales_are_one_cycle_of_cumulative_scales():
    params = as_params(*network([5, 6, 4, 3]))
    first = cycle_scales(params, 1.2)
    second = cycle_scales(rescale(params, first), 1.2)
    product = tuple(a * b for a, b in zip(first, second, strict=True))
    chex.assert_trees_all_close(cumulative_scales(params, 1.2, cycles=2), product, rtol=1e-5)
    chex.assert_trees_all_close(enorm_step(params, 1.2), rescale(params, first))


def test_jit_equals_no_jit():
    params = as_params(*network([5, 6, 4, 3]))
    chex.assert_trees_all_close(jax.jit(enorm_step)(params, 1.2), enorm_step(params, 1.2))


def test_vmap_over_seeds_equals_a_loop():
    nets = [as_params(*network([5, 6, 4, 3], seed)) for seed in range(4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    together = jax.vmap(enorm_step, in_axes=(0, None))(stacked, 1.2)
    one_by_one = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *[enorm_step(n, 1.2) for n in nets]
    )
    chex.assert_trees_all_close(together, one_by_one, rtol=1e-6)


def test_scan_equals_a_loop():
    params = as_params(*network([5, 6, 4, 3]))
    scanned, _ = jax.lax.scan(lambda p, _: (enorm_step(p, 1.2), None), params, length=3)
    chex.assert_trees_all_close(scanned, enorm_step(params, 1.2, cycles=3), rtol=1e-5)


def test_compiles_once_for_all_c():
    once = jax.jit(chex.assert_max_traces(enorm_step, n=1))
    params = as_params(*network([5, 6, 4, 3]))
    for c in (1.0, 1.1, 1.2):
        params = once(params, jnp.float32(c))


@pytest.mark.parametrize("p", [2, 1, 60])
def test_gradient_matches_finite_differences_and_survives_dead_units(p):
    kernels, biases = network([4, 5, 3])
    kernels[0][:, 2] = 0
    kernels[1][3, :] = 0

    def value(params):
        weights = jnp.arange(1.0, 21.0, dtype=jnp.float32).reshape(4, 5)
        return jnp.sum(weights * enorm_step(params, 1.2, p=p)["layer_00"]["kernel"])

    params = as_params(kernels, biases)
    gradient = jax.grad(value)(params)["layer_00"]["kernel"]
    assert np.isfinite(gradient).all()

    def reference_value(w):
        new, _, _ = reference.enorm([w, kernels[1]], biases, 1.2, p)
        return float((np.arange(1.0, 21.0).reshape(4, 5) * new[0]).sum())

    for i, j in [(0, 0), (3, 1), (1, 3), (2, 4)]:  # units 0, 1, 4 alive; unit 3 leads nowhere
        nudge = np.zeros((4, 5))
        nudge[i, j] = 1e-6
        slope = (reference_value(kernels[0] + nudge) - reference_value(kernels[0] - nudge)) / 2e-6
        np.testing.assert_allclose(gradient[i, j], slope, rtol=1e-3)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("side", ["incoming", "outgoing"])
@pytest.mark.parametrize("p", [2, 1, 60, jnp.inf])
def test_a_unit_with_a_zero_or_nonfinite_norm_keeps_d_1(value, side, p):
    kernels, _ = network([4, 5, 3])
    if side == "incoming":
        kernels[0][:, 2] = value
    else:
        kernels[1][2, :] = value
    (d,) = cycle_scales(as_params(kernels), 1.2, p=p)
    assert d[2] == 1
    assert np.isfinite(d).all()
    assert not np.allclose(np.delete(d, 2), 1)


def test_a_ratio_beyond_float32_keeps_d_1():
    params = as_params([np.full((1, 1), 1e-21), np.full((1, 1), 1e19), np.ones((1, 1))])
    first, second = cycle_scales(params, 1.0, p=jnp.inf)
    assert first[0] == 1
    assert np.isfinite(second).all()


def test_a_bias_can_be_kept_as_the_original_authors_do():
    kernels, biases = network([5, 7, 3])
    params = as_params(kernels, biases)
    new = enorm_step(params, 1.2, bias="keep")
    chex.assert_trees_all_equal(lists(new)[1], lists(params)[1])
    chex.assert_trees_all_close(lists(new)[0], lists(enorm_step(params, 1.2))[0])


def test_what_is_no_layer_is_passed_through():
    params = as_params(*network([4, 5, 3]))
    extra = {"temperature": jnp.ones(3), "list": [jnp.ones(2)], "none": None}
    new = enorm_step(params | extra, 1.2)
    chex.assert_trees_all_equal({name: new[name] for name in extra}, extra)
    chex.assert_trees_all_close({k: new[k] for k in params}, enorm_step(params, 1.2))


def test_small_and_large_float16_weights_are_balanced_without_overflow():
    params = {
        "layer_00": {"kernel": jnp.array([[2e-7, 0.0]], jnp.float16)},
        "layer_01": {"kernel": jnp.array([[2e4], [0.0]], jnp.float16)},
    }
    new = enorm_step(params, 1.0)
    size = np.sqrt(float(params["layer_00"]["kernel"][0, 0]) * 2e4)
    np.testing.assert_allclose(new["layer_00"]["kernel"], [[size, 0]], rtol=1e-2)
    np.testing.assert_allclose(new["layer_01"]["kernel"], [[size], [0]], rtol=1e-2)


@pytest.mark.parametrize("c", [-1.0, np.nan, np.inf])
def test_a_wrong_traced_c_is_not_hidden(c):
    """It cannot raise, so it must show: divergence is then found and located."""
    new = step(as_params(*network([4, 5, 3])), c)
    assert not np.isfinite(new["layer_01"]["kernel"]).any()


def test_layers_are_taken_in_order_beyond_ten():
    sizes = list(range(3, 18))
    kernels, biases = network(sizes)
    params = as_params(kernels, biases)
    assert chain(params) == tuple(f"layer_{k:02d}" for k in range(14))
    shuffled = dict(sorted(params.items(), key=lambda item: hash(item[0])))
    new = step(shuffled, 1.2)
    want = reference.enorm(kernels, biases, 1.2)
    ordered = {name: new[name] for name in sorted(new)}
    chex.assert_trees_all_close((*lists(ordered),), want[:2], rtol=2e-5, atol=1e-6)


def test_normalization_layers_in_between_are_left_as_they_are():
    params = as_params(*network([4, 5, 3]))
    norm = {"scale": jnp.full(5, 3.0), "bias": jnp.full(5, 2.0)}
    new = enorm_step(params | {"norm_00": norm}, 1.2)
    chex.assert_trees_all_equal(new["norm_00"], norm)
    chex.assert_trees_all_close({k: new[k] for k in params}, enorm_step(params, 1.2))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_keeps_its_dtype_and_takes_norms_in_float32(dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), as_params(*network([64, 300, 8])))
    new = enorm_step(params, 1.2)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, params)
    kernels = [np.float64(layer["kernel"].astype(jnp.float32)) for layer in params.values()]
    _, _, (want,) = reference.enorm(kernels, [np.zeros(300), np.zeros(8)], 1.2)
    np.testing.assert_allclose(cycle_scales(params, 1.2)[0], want, rtol=1e-5)


def test_momentum_follows_with_the_inverse_scales(rng):
    """The gradient of the rescaled network is the gradient, rescaled inversely."""
    params = as_params(*network([5, 7, 4, 3]))
    x = jnp.asarray(rng.normal(size=(9, 5)), jnp.float32)

    def loss(tree):
        h = x
        for layer in list(tree.values())[:-1]:
            h = jax.nn.relu(h @ layer["kernel"] + layer["bias"][None, :])
        return jnp.sum((h @ tree["layer_02"]["kernel"]) ** 2)

    scales = cycle_scales(params, 1.2)
    inverse = jax.tree.map(jnp.reciprocal, scales)
    moved = jax.grad(loss)(rescale(params, scales))
    chex.assert_trees_all_close(moved, rescale(jax.grad(loss)(params), inverse), rtol=1e-3)


def test_rescale_refuses_scales_that_do_not_fit():
    with pytest.raises(ValueError, match=r"layer_00.*5"):
        rescale(as_params(*network([4, 5, 3])), (jnp.ones(4),))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"norm_00": {"scale": jnp.ones(2)}}, r"no layer with a 'kernel' among \['norm_00'\]"),
        ({"params": {"layer_00": {"kernel": jnp.ones((2, 2))}}}, r"variables\['params'\]"),
        ([{"kernel": jnp.ones((2, 2))}], "params must map names to layers"),
        ({0: {"kernel": jnp.ones((2, 2))}}, "params must map names to layers"),
        (
            {
                "backbone": {"layer_00": {"kernel": jnp.ones((2, 2))}},
                "head_0": {"kernel": jnp.ones((2, 2))},
            },
            "backbone: its kernel lies deeper, in 'layer_00'",
        ),
        (
            {"layer_00": {"kernel": jnp.ones((2, 3))}, "layer_01": {"kernel": jnp.ones((4, 2))}},
            r"layer_00 \(2, 3\) and layer_01 \(4, 2\) do not chain",
        ),
        (
            {f"Dense_{k}": {"kernel": jnp.ones((2, 2))} for k in range(11)},
            "Dense_10.*not in order",
        ),
        (
            {"head": {"kernel": jnp.ones((2, 2))}, "body": {"kernel": jnp.ones((2, 2))}},
            "place of layer 'body'",
        ),
        (
            {"a_0": {"kernel": jnp.ones((2, 2))}, "b_1": {"kernel": jnp.ones((2, 2))}},
            "not in order",
        ),
        ({"layer_00": {"kernel": jnp.ones((3, 2, 2))}}, r"layer_00.*\(3, 2, 2\).*jax.vmap"),
    ],
)
def test_wrong_params_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        enorm_step(params, 1.2)


@pytest.mark.parametrize(
    "arguments",
    [
        {"c": 0.0},
        {"c": -1.0},
        {"c": float("nan")},
        {"c": float("inf")},
        {"c": np.ones(3)},
        {"c": None},
        {"c": "1.2"},
        {"c": {}},
        {"c": lambda step: 1.2},
        {"p": 0.5},
        {"cycles": 0},
        {"order": "random"},
    ],
    ids=lambda arguments: str(arguments).partition(" at ")[0],
)
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        enorm_step(as_params(*network([4, 5, 3])), **arguments)


def test_a_wrong_c_is_found_under_jit_when_static():
    with pytest.raises(ValueError, match="c must be positive"):
        jax.jit(lambda params: enorm_step(params, -1.0))(as_params(*network([4, 5, 3])))


def test_a_single_layer_has_nothing_to_balance():
    params = as_params(*network([4, 3]))
    chex.assert_trees_all_equal(enorm_step(params, 1.2), params)
