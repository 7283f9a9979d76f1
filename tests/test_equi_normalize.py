"""The optimizer's half of ENorm, in float64."""

import functools
import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import reference
from enorm_jax import (
    advance_gauge,
    check_degrees,
    cumulative_scales,
    energy,
    enorm_step,
    enorm_step_with_state,
    equi_normalize,
    explain,
    gauge_gradients,
    initial_gauge,
    rescale,
    rescale_state,
)
from enorm_jax.groups import chain_groups

SIZES = (5, 7, 4, 3)
EXACT = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture(autouse=True)
def _float64():
    """With promotion as usual, without which optax's Adam does not run."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def network(seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"layer_{k:02d}": {
            "kernel": jnp.asarray(rng.normal(size=shape) * rng.uniform(0.3, 3, (1, shape[1]))),
            "bias": jnp.asarray(rng.normal(size=shape[1])),
        }
        for k, shape in enumerate(itertools.pairwise(SIZES))
    }


def loss(params, x, labels):
    for layer in list(params.values())[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"][None, :])
    last = list(params.values())[-1]
    logits = x @ last["kernel"] + last["bias"][None, :]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def batch(seed):
    rng = np.random.default_rng(100 + seed)
    return jnp.asarray(rng.normal(size=(9, SIZES[0]))), jnp.asarray(rng.integers(0, SIZES[-1], 9))


gradient = jax.jit(jax.grad(loss))
with jax.enable_x64(True):
    BATCHES = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[batch(seed) for seed in range(3)])


@jax.jit
def gradients(params):
    """Of some batches, with the parameters held fixed; on a leading axis."""
    return jax.vmap(jax.grad(loss), (None, 0, 0))(params, *BATCHES)


def accumulate(optimizer, params, grads):
    """The state after these gradients."""

    def step(state, grads):
        return optimizer.update(grads, state, params)[1], None

    return jax.lax.scan(step, optimizer.init(params), grads)[0]


def matrices(tree):
    return jax.tree.map(lambda leaf: leaf.ndim == 2, tree)


def labels(tree):
    return jax.tree.map(lambda leaf: "heavy" if leaf.ndim == 2 else "light", tree)


MOMENTUM = optax.sgd(0.1, momentum=0.9)
OPTIMIZERS = {
    "momentum": MOMENTUM,
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(1e-2),
    "nadamw": optax.nadamw(1e-2),
    "adamw_masked": optax.adamw(1e-2, mask=matrices),
    "amsgrad": optax.amsgrad(1e-2),
    "adabelief": optax.adabelief(1e-2, eps_root=0.0),
    "adagrad": optax.adagrad(1e-2, initial_accumulator_value=0.0),
    "adadelta": optax.adadelta(1e-2, eps=1e-60),
    "adan": optax.adan(1e-2),
    "rmsprop": optax.rmsprop(1e-2, eps=1e-60),
    "rmsprop_momentum": optax.rmsprop(1e-2, eps=1e-60, momentum=0.9),
    "rmsprop_centered": optax.rmsprop(1e-2, eps=1e-60, centered=True, bias_correction=True),
    "rprop": optax.rprop(1e-2),
    "lion": optax.lion(1e-2),
    "muon": optax.contrib.muon(1e-2),
    "ademamix": optax.contrib.ademamix(1e-2),
    "simplified_ademamix": optax.contrib.simplified_ademamix(1e-2),
    "optimistic": optax.optimistic_gradient_descent(1e-2),
    "ema_of_updates": optax.chain(optax.ema(0.9), optax.scale(-0.1)),
    "multi_steps": optax.MultiSteps(
        optax.adam(1e-2), every_k_schedule=2, accumulator_dtype=jnp.float64
    ),
    "apply_if_finite": optax.apply_if_finite(optax.adam(1e-2), 3),
    "injected": optax.inject_hyperparams(optax.sgd)(1e-2, momentum=0.9),
    "named": optax.named_chain(("adam", optax.scale_by_adam()), ("lr", optax.scale(-0.1))),
    "masked": optax.masked(optax.trace(0.9), matrices),
    "partition": optax.partition(
        {"heavy": optax.adam(1e-2), "light": optax.sgd(1e-2, momentum=0.9)}, labels
    ),
}


@pytest.fixture(scope="module")
def scaled():
    with jax.enable_x64(True):
        params = network()
        scales = cumulative_scales(params, 1.2)
        return params, scales, rescale(params, scales)


def commutes(optimizer, scaled, before=lambda grads: grads, after=lambda grads: grads, **options):
    params, scales, moved = scaled
    run = jax.jit(functools.partial(accumulate, optimizer))
    state = run(params, before(gradients(params)))
    rescaled = rescale_state(state, params, scales, **options)
    chex.assert_trees_all_equal_shapes_and_dtypes(rescaled, state)
    want = run(moved, after(gradients(moved)))
    chex.assert_trees_all_close(rescaled, want, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_accumulating_and_rescaling_commute(name, scaled):
    commutes(OPTIMIZERS[name], scaled)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adagrad(1e-2, initial_accumulator_value=0.1),
        optax.chain(optax.clip_by_global_norm(1.0), MOMENTUM),
        optax.chain(optax.adaptive_grad_clip(0.1), MOMENTUM),
        optax.MultiSteps(OPTIMIZERS["rmsprop_momentum"], 4),
        optax.polyak_sgd(),
    ],
    ids=["initial_value", "clipped", "clipped_by_unit", "multi_steps", "needs_the_loss"],
)
def test_measured_degrees_agree_whatever_is_in_the_way(optimizer):
    check_degrees(optimizer, {"w": jnp.ones((2, 2)), "b": jnp.ones(2)})


@pytest.mark.parametrize("name", ["momentum", "adam", "partition"])
def test_so_they_do_with_the_biases_in_the_gauge(name, scaled):
    gauge = tuple(jnp.linspace(0.5, 2, d.size) for d in scaled[1])

    def gauged(by):
        return jax.vmap(lambda grads: gauge_gradients(grads, by))

    after = gauged(advance_gauge(gauge, scaled[1]))
    commutes(OPTIMIZERS[name], scaled, before=gauged(gauge), after=after, bias="gauge")


def test_what_copies_parameters_follows_them(scaled):
    params, scales, moved = scaled
    optimizer = optax.contrib.schedule_free(optax.sgd(0.1), 0.1)
    rescaled = rescale_state(optimizer.init(params), params, scales)
    chex.assert_trees_all_close(rescaled, optimizer.init(moved), **EXACT)
    average = optax.EmaState(jnp.zeros((), jnp.int32), params)
    rescaled = rescale_state(average, params, scales, degrees={optax.EmaState: {"ema": 1}})
    chex.assert_trees_all_close(rescaled.ema, moved, **EXACT)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (optax.lbfgs(1e-2), "ScaleByLBFGSState"),
        (optax.adamax(1e-2), r"ScaleByAdamState.nu .* power 2"),
        (optax.contrib.adopt(1e-2), r"ScaleByAdamState.mu .* power 1"),
        (
            optax.chain(OPTIMIZERS["partition"], optax.trace(0.9)),
            "TraceState.trace follows .*differently by parameter",
        ),
    ],
    ids=["lbfgs", "adamax", "adopt", "mixed"],
)
def test_a_state_that_cannot_be_rescaled_is_refused(optimizer, message):
    with pytest.raises(ValueError, match=message) as refusal:
        equi_normalize(optimizer, c=1.2).init(network())
    assert "degrees=" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("container", [dict, nnx.State])
@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        (optax.adafactor(1e-2), "Adafactor's FactoredState"),
        (optax.novograd(1e-2), "NovoGrad's ScaleByNovogradState"),
        (optax.sm3(1e-2), "SM3's ScaleBySM3State"),
    ],
    ids=["adafactor", "novograd", "sm3"],
)
def test_a_state_that_no_rescaling_is_right_for_is_not_to_be_taught(container, optimizer, name):
    layers = {f"layer_{k:02d}": {"kernel": jnp.ones((2, 2))} for k in range(2)}
    params = container(layers)
    with pytest.raises(ValueError, match=f"{name} mixes elements") as refusal:
        rescale_state(optimizer.init(params), params, (jnp.ones(2),), chain_groups(layers))
    assert "degrees=" not in str(refusal.value)


@pytest.mark.parametrize(
    ("optimizer", "measured"),
    [
        (optax.adamax(1e-2, eps=1e-60), {"mu": -1, "nu": -1}),
        (optax.contrib.adopt(1e-2), {"mu": 0, "nu": -2}),
    ],
    ids=["adamax", "adopt"],
)
def test_a_refusal_measures_the_powers_that_teach_it_a_class(scaled, optimizer, measured):
    with pytest.raises(ValueError, match=re.escape(f"{{ScaleByAdamState: {measured}}}")):
        check_degrees(optimizer, scaled[0])
    degrees = {optax.ScaleByAdamState: measured}
    check_degrees(optimizer, scaled[0], degrees)
    commutes(optimizer, scaled, degrees=degrees)


def test_no_powers_are_named_where_states_of_a_class_follow_different_ones(scaled):
    branches = {"heavy": optax.adam(1e-2), "light": optax.adamax(1e-2)}
    with pytest.raises(ValueError, match=re.escape("{ScaleByAdamState: {'nu': power, ...}}")):
        check_degrees(optax.partition(branches, labels), scaled[0])


def train(optimizer, params, steps, gradients=gradient):
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for seed in range(steps):
        updates, state = update(gradients(params, *batch(seed)), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", ["momentum", "adamw_masked"])
def test_a_step_is_the_optimizers_and_then_enorms(name):
    params, optimizer = network(), OPTIMIZERS[name]
    state = optimizer.init(params)
    for seed in range(3):
        grads = gradient(params, *batch(seed))
        updates, state = optimizer.update(grads, state, params)
        stepped = optax.apply_updates(params, updates)
        params, state, scales = enorm_step_with_state(stepped, state, 1.2, order="simultaneous")
        chex.assert_trees_all_equal(params, enorm_step(stepped, 1.2, order="simultaneous"))
        chex.assert_trees_all_equal(rescale(stepped, scales), params)
    wrapped = equi_normalize(optimizer, c=1.2, order="simultaneous")
    new, wrapped_state = train(wrapped, network(), 3)
    chex.assert_trees_all_close(new, params, **EXACT)
    chex.assert_trees_all_close(wrapped_state.inner_state, state, **EXACT)


def test_momentum_moves_the_function_as_without_the_rescaling():
    """With rates that follow the gauge: a weight multiplied by f takes steps f² as long."""
    params, optimizer = network(), optax.trace(0.9)

    def run(rescaled):
        new, state, factors = params, optimizer.init(params), jax.tree.map(jnp.ones_like, params)
        for seed in range(4):
            trace, state = optimizer.update(gradient(new, *batch(seed)), state)
            new = jax.tree.map(lambda w, m, f: w - 0.01 * f * f * m, new, trace, factors)
            if rescaled:
                new, state, scales = enorm_step_with_state(new, state, 1.2)
                factors = rescale(factors, scales)
        return new, factors

    (plain, _), (moved, factors) = run(False), run(True)
    chex.assert_trees_all_close(moved, jax.tree.map(jnp.multiply, plain, factors), **EXACT)


def test_every_so_many_steps():
    optimizer = equi_normalize(optax.sgd(0.1, momentum=0.9), c=1.2, every=2)
    params, state = network(), None
    plain, momentum = optax.sgd(0.1, momentum=0.9), None
    state, momentum = optimizer.init(params), plain.init(params)
    update, want = jax.jit(optimizer.update), params
    for seed in range(4):
        updates, state = update(gradient(params, *batch(seed)), state, params)
        params = optax.apply_updates(params, updates)
        updates, momentum = plain.update(gradient(want, *batch(seed)), momentum, want)
        want = optax.apply_updates(want, updates)
        if seed % 2:
            want, momentum, _ = enorm_step_with_state(want, momentum, 1.2)
    chex.assert_trees_all_close(params, want, **EXACT)
    chex.assert_trees_all_close(state.inner_state, momentum, **EXACT)


def test_accumulated_steps_inside_and_outside():
    def accumulating(inner):
        return optax.MultiSteps(inner, every_k_schedule=2, accumulator_dtype=jnp.float64)

    sgd = optax.sgd(0.1, momentum=0.9)

    def mean_gradient(params, x, labels):
        del x, labels
        seed = mean_gradient.step = getattr(mean_gradient, "step", -2) + 2
        both = (gradient(params, *batch(s)) for s in (seed, seed + 1))
        return jax.tree.map(lambda a, b: (a + b) / 2, *both)

    want, _ = train(equi_normalize(sgd, c=1.2), network(), 2, mean_gradient)
    inside, state = train(equi_normalize(accumulating(sgd), c=1.2), network(), 5)
    outside, _ = train(accumulating(equi_normalize(sgd, c=1.2)), network(), 5)
    literal = optax.chain(optax.sgd(0.1), equi_normalize(c=1.2))
    chex.assert_trees_all_close(inside, want, **EXACT)
    chex.assert_trees_all_close(outside, want, **EXACT)
    assert state.steps == 2
    usual = equi_normalize(optax.sgd(0.1), c=1.2)
    without = [train(accumulating(o), network(), 4)[0] for o in (literal, usual)]
    chex.assert_trees_all_close(*without, **EXACT)


def test_lookahead_keeps_its_slow_parameters_in_the_same_gauge():
    optimizer = optax.lookahead(optax.sgd(0.1, momentum=0.9), sync_period=2, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(network())

    def fast(params, *data):
        return gradient(params.fast, *data)

    got, _ = train(equi_normalize(optimizer, c=1.2), params, 3, fast)
    state = optimizer.init(params)
    for seed in range(3):
        updates, state = optimizer.update(fast(params, *batch(seed)), state, params)
        params = optax.apply_updates(params, updates)
        scales = cumulative_scales(params.fast, 1.2)
        state = rescale_state(state, params.fast, scales)
        params = optax.LookaheadParams(*(rescale(copy, scales) for copy in params))
    chex.assert_trees_all_close(got, params, **EXACT)


def test_biases_stay_in_the_gauge_under_lookahead():
    def gauged(inner):
        return equi_normalize(inner, c=1.2, bias="gauge")

    never = optax.lookahead(optax.sgd(0.1), sync_period=100, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(network())
    got, _ = train(gauged(never), params, 3, lambda params, *data: gradient(params.fast, *data))
    want, _ = train(gauged(optax.sgd(0.1)), network(), 3)
    chex.assert_trees_all_close(got.fast, want, **EXACT)


def test_last_in_a_chain_of_stateless_members():
    decayed = optax.chain(optax.add_decayed_weights(0.01), optax.clip(1.0), optax.sgd(0.1))
    want, _ = train(equi_normalize(decayed, c=1.2), network(), 2)
    nested = optax.named_chain(
        ("nothing", optax.identity()), ("rest", optax.chain(decayed, equi_normalize(c=1.2)))
    )
    for chained in (optax.chain(decayed, equi_normalize(c=1.2)), nested):
        chex.assert_trees_all_close(train(chained, network(), 2)[0], want, **EXACT)
    state = jax.eval_shape(nested.init, network())
    chex.assert_trees_all_equal_shapes(jax.jit(nested.init)(network()), state)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (optax.chain(optax.trace(0.9), equi_normalize(c=1.2)), "TraceState.trace has to be"),
        (optax.chain(MOMENTUM, optax.chain(optax.clip(1.0), equi_normalize())), "TraceState"),
        (optax.chain(optax.adam(0.1), equi_normalize()), "ScaleByAdamState.mu"),
        (optax.named_chain(("a", MOMENTUM), ("b", equi_normalize())), "TraceState"),
        (optax.chain(equi_normalize(), optax.sgd(0.1)), "last member"),
        (optax.chain(optax.chain(equi_normalize()), optax.sgd(0.1)), "last member"),
        (equi_normalize(), "must be the last member of an optax.chain"),
        (optax.masked(optax.chain(optax.sgd(0.1), equi_normalize()), matrices), "masked"),
        (
            optax.contrib.schedule_free(optax.chain(optax.sgd(0.1), equi_normalize()), 0.1),
            "schedule_free",
        ),
    ],
)  # fmt: skip
def test_a_chain_that_would_leave_a_state_behind_is_refused(optimizer, message):
    with pytest.raises(ValueError, match=message) as refusal:
        optimizer.init(network())
    assert "equi_normalize(optax.chain(...), c=...)" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "variant",
    [{}, {"order": "simultaneous"}, {"cycles": 3}, {"order": "simultaneous", "cycles": 2}],
    ids=str,
)
def test_gauged_biases_live_in_the_network_that_was_never_rescaled(variant):
    """Stored bias / S moves by lr · S · (its gradient), which is the gradient there."""
    rate, decay, steps = 0.05, 0.01, 5
    params = network()
    optimizer = optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate))
    new, state = train(equi_normalize(optimizer, c=1.3, bias="gauge", **variant), params, steps)

    kernels = [np.array(layer["kernel"]) for layer in params.values()]
    own = [np.array(layer["bias"]) for layer in params.values()]
    total = [np.ones(n) for n in SIZES[1:-1]] + [np.ones(SIZES[-1])]
    for seed in range(steps):
        stored = [s * b for s, b in zip(total, own, strict=True)]
        x, y = (np.array(a) for a in batch(seed))
        kernels, moved, _ = reference.sgd_step(kernels, stored, x, y, rate, decay)
        for k, b in enumerate(own):
            gradient_k = (stored[k] - moved[k]) / rate - decay * stored[k]
            own[k] = b - rate * (total[k] * gradient_k + decay * b)
        kernels, _, scales = reference.enorm(kernels, own, 1.3, **variant)
        total[:-1] = [s * d for s, d in zip(total, scales, strict=False)]
    stored = [s * b for s, b in zip(total, own, strict=True)]
    for layer, w, b in zip(new.values(), kernels, stored, strict=True):
        np.testing.assert_allclose(layer["kernel"], w, rtol=1e-9)
        np.testing.assert_allclose(layer["bias"], b, rtol=1e-9)
    chex.assert_trees_all_close(list(state.gauge), total[:-1], rtol=1e-9)


def test_a_new_gauge_changes_nothing():
    grads = gradient(network(), *batch(0))
    chex.assert_trees_all_equal(gauge_gradients(grads, initial_gauge(network())), grads)


@pytest.mark.slow
def test_jit_scan_vmap_and_donation_give_the_same():
    optimizer = equi_normalize(optax.adam(1e-2), c=1.2, every=2, bias="gauge")
    nets = [network(seed) for seed in range(2)]
    data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[batch(seed) for seed in range(4)])

    def step(carry, batch):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, *batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    @jax.vmap
    def scanned(params):
        return jax.lax.scan(step, (params, optimizer.init(params)), data)[0]

    together = scanned(jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets))
    donated = jax.jit(chex.assert_max_traces(step, n=1), donate_argnums=0)
    for k, params in enumerate(nets):
        carry = params, optimizer.init(params)
        for seed in range(4):
            carry, _ = donated(carry, batch(seed))
        one = jax.tree.map(lambda leaf, k=k: leaf[k], together)
        chex.assert_trees_all_close(one, carry, rtol=1e-6, atol=1e-12)


def test_low_precision_keeps_its_dtypes():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), network())
    inner = optax.adam(1e-2, mu_dtype=jnp.float32)
    optimizer = equi_normalize(inner, c=1.2, bias="gauge")
    state = optimizer.init(params)
    updates, new = jax.eval_shape(optimizer.update, params, state, params)
    plain, _ = jax.eval_shape(inner.update, params, inner.init(params), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, plain)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: equi_normalize(1.2), r"got 1.2: write equi_normalize\(optimizer, c=1.2\)"),
        (lambda: equi_normalize(1.2, MOMENTUM), r"got 1.2: write equi_normalize\(optimizer"),
        (
            lambda: equi_normalize(MOMENTUM).update(network(), MOMENTUM.init(network()), network()),
            "no EquiNormalizeState but tuple: use that of init",
        ),
        (lambda: equi_normalize(MOMENTUM, every=0), "every must be a whole number, at least 1"),
        (lambda: equi_normalize(MOMENTUM, every=1.5), "every must be a whole number"),
        (lambda: equi_normalize(MOMENTUM, p="2"), "p must be at least 1, got '2'"),
        (lambda: equi_normalize(MOMENTUM, bias="gauged"), "'gauge', got 'gauged'"),
        (lambda: equi_normalize(bias="gauge"), "bias='gauge' changes the gradients"),
        (lambda: train(equi_normalize(MOMENTUM, c=-1.0), network(), 1), "c must be positive"),
        (
            lambda: equi_normalize(MOMENTUM).update(
                network(), equi_normalize(MOMENTUM).init(network())
            ),
            "needs the parameters",
        ),
        (
            lambda: rescale_state(
                MOMENTUM.init({"w": jnp.ones(2)}), network(), (jnp.ones(7), jnp.ones(4))
            ),
            "TraceState.trace.*belongs to no parameter",
        ),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_would_change_the_rescaling_afterwards_is_refused():
    """A scale_by_ transform before scale(-lr), as optax users write, moved the function."""
    params = {f"layer_{k:02d}": {"kernel": jnp.ones((2, 2))} for k in range(2)}
    wrapped = equi_normalize(optax.scale_by_adam(), c=1.2)
    with pytest.raises(ValueError, match="must be the last member of its chain"):
        optax.chain(wrapped, optax.scale(-0.1)).init(params)
    optax.chain(optax.clip(1.0), equi_normalize(optax.adam(0.1), c=1.2)).init(params)


@pytest.mark.parametrize(
    "around",
    [
        lambda inner: optax.lookahead(inner, sync_period=2, slow_step_size=0.5),
        lambda inner: optax.contrib.schedule_free(inner, 0.1),
        optax.contrib.mechanize,
    ],
    ids=["lookahead", "schedule_free", "mechanize"],
)
def test_what_keeps_copies_of_the_parameters_around_it_is_refused(around):
    params = optax.LookaheadParams.init_synced(network())
    with pytest.raises(ValueError, match="keeps copies of the parameters"):
        around(equi_normalize(optax.sgd(0.1))).init(params)


@pytest.mark.parametrize("every", [1, 2])
def test_c_follows_a_schedule(every):
    optimizer = equi_normalize(optax.sgd(0.0), optax.linear_schedule(1.4, 1.0, 4), every=every)
    params = network()
    state = optimizer.init(params)
    for step in range(4):
        updates, state = jax.jit(optimizer.update)(params, state, params)
        want = enorm_step(params, 1.4 - 0.1 * step) if (step + 1) % every == 0 else params
        params = optax.apply_updates(params, updates)
        chex.assert_trees_all_close(params, want, rtol=1e-6)


def test_what_must_not_be_traced_is_named():
    injected = optax.inject_hyperparams(equi_normalize)(optax.sgd(0.1), c=lambda step: 1.2)
    params = network()
    with pytest.raises(ValueError, match=r"every must be a plain number.*static_args"):
        jax.jit(injected.update)(params, injected.init(params), params)
    with pytest.raises(ValueError, match="cycles must be a plain number"):
        jax.jit(lambda cycles: enorm_step(params, cycles=cycles))(2)


def test_wrong_arguments_are_refused_before_any_step():
    params = {f"layer_{k:02d}": {"kernel": jnp.ones((2, 2))} for k in range(2)}
    groups = chain_groups(params)
    others = {"a": {"kernel": jnp.ones((2, 2))}}
    with pytest.raises(ValueError, match=r"name \['layer_00'\].* params have \['a'\]\['kernel'\]:"):
        equi_normalize(optax.sgd(0.1), groups=groups).init(others)
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), params)
    with pytest.raises(ValueError, match=r"use jax\.vmap for a leading axis of seeds"):
        equi_normalize(optax.sgd(0.1), groups=groups).init(seeds)
    jax.vmap(equi_normalize(optax.sgd(0.1), groups=groups).init)(seeds)
    slow_and_fast = optax.LookaheadParams.init_synced(params)
    lookahead = optax.lookahead(optax.sgd(0.1), 5, 0.5)
    equi_normalize(lookahead, groups=groups).init(slow_and_fast)
    for use in (
        lambda g: explain(g),
        lambda g: energy(params, g),
        lambda g: rescale(params, (), g),
    ):
        with pytest.raises(ValueError, match="groups must be what infer_groups returns, got tuple"):
            use(tuple(groups))
    with pytest.raises(ValueError, match="c must be positive"):
        equi_normalize(optax.sgd(0.1), c=-1.0)
    with pytest.raises(ValueError, match="groups must be what infer_groups returns, got list"):
        equi_normalize(optax.sgd(0.1), groups=[]).init(params)
    with pytest.raises(ValueError, match="'gauge' needs a state: use equi_normalize"):
        enorm_step(params, 1.2, bias="gauge")
    with pytest.raises(ValueError, match="write groups=groups"):
        enorm_step(params, chain_groups(params))
    with pytest.raises(ValueError, match="bias must be"):
        enorm_step_with_state(params, (), 1.2, bias="Scale")


def test_masked_layers_are_never_balanced_past():
    frozen = {name: name != "layer_01" for name in network()}
    labels = {name: "train" if train else "keep" for name, train in frozen.items()}
    for transform in (
        optax.masked(equi_normalize(MOMENTUM), frozen),
        optax.multi_transform(
            {"train": equi_normalize(MOMENTUM), "keep": optax.set_to_zero()}, labels
        ),
    ):
        with pytest.raises(ValueError, match=r"put it outside of optax\.masked"):
            transform.init(network())
    outside = optax.multi_transform({"train": MOMENTUM, "keep": optax.set_to_zero()}, labels)
    equi_normalize(outside).init(network())


def test_biases_that_are_none_are_absent():
    params = {name: {**layer, "bias": None} for name, layer in network().items()}
    got = enorm_step(params, 1.2)
    plain = {name: {"kernel": layer["kernel"]} for name, layer in params.items()}
    chex.assert_trees_all_equal(
        {name: {"kernel": layer["kernel"]} for name, layer in got.items()}, enorm_step(plain, 1.2)
    )
