"""Claims of the original figure on methods that the study did not run."""

from collections.abc import Callable, Sequence
from functools import partial

from enorm_jax.methods import ORIGINAL
from verdicts.ordering import ordered
from verdicts.outcome import Claim, Outcome
from verdicts.runs import BN, BOTH, DEEP, DEPTHS, ENORM, SHALLOW, Setting
from verdicts.store import Store

GN, PATH, WN_BN = map(Setting, ("gn", "path-sgd", "wn+bn"))
SEVEN = tuple(map(Setting, ORIGINAL))


def _best(method: Setting, depths: Sequence[int]) -> Callable[[Store], Outcome]:
    """Whether a method is above the other six at three of five depths."""
    pairs = [(method, other) for other in SEVEN if other != method]
    return partial(ordered, pairs=pairs, depths=depths, needed=3, source="original")


CLAIMS = [
    Claim(
        "wn-bn-shallow",
        "Up to p = 9, WN + BN is the best of seven methods",
        "In the original figure it is, by 0.4 to 1 percent before the next.",
        "WN + BN minus each of the other six at p = 1–9. A depth speaks for the claim if all six "
        "intervals lie above 0, against it if one lies below. Holds with 3 depths for it, does "
        "not hold with 3 against it.",
        _best(WN_BN, SHALLOW),
    ),
    Claim(
        "both-deep",
        "Above p = 9, ENorm + BN is the best of seven methods",
        "In the original figure it is, by 0.4 to 1.2 percent before the next.",
        "ENorm + BN minus each of the other six at p = 11–19. A depth speaks for the claim if all "
        "six intervals lie above 0, against it if one lies below. Holds with 3 depths for it, "
        "does not hold with 3 against it.",
        _best(BOTH, DEEP),
    ),
    Claim(
        "gn-bn",
        "GN is above BN at almost all depths",
        "In the original figure at all ten.",
        "GN minus BN at each of the ten depths. A depth speaks for the claim if the interval lies "
        "above 0, against it if below. Holds with 9 depths for it, does not hold with 2 against "
        "it.",
        partial(ordered, pairs=[(GN, BN)], depths=DEPTHS, needed=9, source="original"),
    ),
    Claim(
        "enorm-path",
        "ENorm is above Path-SGD at almost all depths",
        "In the original figure at all ten.",
        "ENorm minus Path-SGD at each of the ten depths. A depth speaks for the claim if the "
        "interval lies above 0, against it if below. Holds with 9 depths for it, does not hold "
        "with 2 against it. Path-SGD's rate at a depth that was not searched is that of the "
        "nearest, at p = 15 that of p = 13.",
        partial(ordered, pairs=[(ENORM, PATH)], depths=DEPTHS, needed=9, source="original"),
    ),
]
