"""What was found before us as claims, the study's first, each with the test that it is put to."""

from functools import partial

from verdicts import cost, divergence, networks, original, precision, reproduction, variants
from verdicts.averages import between_depths, on_average
from verdicts.divergence import Expected, all_do, occasional
from verdicts.ordering import ordered
from verdicts.outcome import Claim
from verdicts.runs import BASELINE, BN, BOTH, DEEP, DEPTHS, ENORM, SHALLOW, Setting
from verdicts.variants import GAUGE

BASELINE_BIAS, ENORM_BIAS = Setting("baseline", bias=True), Setting("enorm", bias=True)
SOFTMAX = Setting("enorm", bias=True, softmax=True)
NOTEBOOK = Setting("enorm+bn", schedule="notebook")

CLAIMS = [
    Claim(
        "enorm-baseline",
        "ENorm is at least as good as Baseline at almost all depths",
        "Without bias, ENorm reaches or exceeds the baseline's accuracy nearly everywhere.",
        "ENorm minus Baseline at each of the ten depths. A depth speaks for the claim if the "
        "interval lies above −0.5 %, against it if not and below 0. Holds with 9 depths for it, "
        "does not hold with 2 against it.",
        partial(ordered, pairs=[(ENORM, BASELINE)], depths=DEPTHS, needed=9, margin=0.5),
    ),
    Claim(
        "both-bn",
        "ENorm + BN is above BN at every depth",
        "Adding ENorm to batch normalization improves it at all depths.",
        "ENorm + BN minus BN at each of the ten depths. A depth speaks for the claim if the "
        "interval lies above 0, against it if below. Holds with 10 depths for it, does not hold "
        "with 1 against it.",
        partial(ordered, pairs=[(BOTH, BN)], depths=DEPTHS, needed=10),
    ),
    Claim(
        "both-best",
        "ENorm + BN is best at most depths",
        "Of the four methods, ENorm with batch normalization has the highest accuracy at most "
        "depths.",
        "ENorm + BN minus each of the other three at each of the ten depths. A depth speaks for "
        "the claim if all three intervals lie above 0, against it if one lies below. Holds with 6 "
        "depths for it, does not hold with 5 against it.",
        partial(ordered, pairs=[(BOTH, s) for s in (ENORM, BN, BASELINE)], depths=DEPTHS, needed=6),
    ),
    Claim(
        "order",
        "ENorm + BN > ENorm > BN > Baseline at most depths",
        "The four methods come in this order at most depths.",
        "The differences of neighbours in the order at each of the ten depths. A depth speaks "
        "for the claim if all three intervals lie above 0, against it if one lies below. Holds "
        "with 6 depths for it, does not hold with 5 against it.",
        partial(
            ordered,
            pairs=[(BOTH, ENORM), (ENORM, BN), (BN, BASELINE)],
            depths=DEPTHS,
            needed=6,
        ),
    ),
    Claim(
        "both-19",
        "ENorm + BN is lower at p = 19 than at p = 9–17",
        "Its accuracy at the last depth is low beside that at the depths before.",
        "The mean over p = 9–17 (two runs at three depths at least) minus that at p = 19. Holds "
        "if the interval lies above 0, does not hold if below.",
        partial(between_depths, setting=BOTH, high=DEPTHS[4:9], low=19, enough=3),
    ),
    Claim(
        "notebook",
        "The published fall at p = 19 comes from the notebook's schedule",
        "The study's text decays the rate linearly to 0. Its public notebook takes the decay of a "
        "rate of 0.1 whatever the rate is, so that from p = 15 on ENorm + BN would train with a "
        "negative rate in the second half. Which of the two made the point is not said; that it "
        "was the notebook's is our conjecture.",
        "The published point at p = 19 against our 95 % prediction intervals for one run. Holds "
        "if it lies inside the notebook schedule's and outside the linear one's, does not hold "
        "if it lies outside the notebook schedule's.",
        partial(reproduction.explained, usual=BOTH, other=NOTEBOOK, depth=19, shown=(15, 17, 19)),
    ),
    Claim(
        "bias-diverges",
        "With bias, all ENorm runs above p = 9 diverge in the first epoch, and none up to p = 9",
        "With biases that are rescaled with their units and c = 1.2, the loss is NaN after one "
        "epoch at all depths above 9, and at none below.",
        "At p = 11–19, all runs (two at least, of any number of epochs, of a seed the longest, "
        "counted before restarts) diverge in the first epoch; at p = 1–9, all end without a "
        "restart at 30 % or more. Holds with all ten depths for it, does not hold with one "
        "against it.",
        partial(
            all_do,
            parts=[
                Expected(ENORM_BIAS, SHALLOW, divergence.trains),
                Expected(ENORM_BIAS, DEEP, divergence.lost_in_first_epoch, any_epochs=True),
            ],
            needed=10,
        ),
    ),
    Claim(
        "gauge",
        "With bias gradients in the gauge of the unscaled network, ENorm trains at all depths",
        "Not published: our remedy (`--bias gauge`) for the divergence.",
        "At each of the ten depths all runs, two at least, end without a restart at 30 % or more. "
        "Holds with all ten depths for it, does not hold with one against it.",
        partial(all_do, parts=[Expected(GAUGE, DEPTHS, divergence.trains)], needed=10),
    ),
    Claim(
        "bias-baseline",
        "Baseline is slightly better with bias than without",
        "Biases add a little to the baseline's accuracy.",
        "Baseline with bias minus without, in the mean over the depths at which both have two "
        "runs, five at least. Holds if the interval lies above 0, does not hold if below.",
        partial(on_average, upper=BASELINE_BIAS, lower=BASELINE, depths=DEPTHS, enough=5),
    ),
    Claim(
        "bias-enorm",
        "ENorm is better with bias than without, where it trains",
        "Up to p = 9, where it does not diverge, ENorm gains from biases.",
        "ENorm with bias minus without, in the mean over the depths up to 9 at which both have "
        "two runs, three at least. Holds if the interval lies above 0, does not hold if below.",
        partial(on_average, upper=ENORM_BIAS, lower=ENORM, depths=SHALLOW, enough=3),
    ),
    Claim(
        "occasional",
        "Without bias, ENorm diverges now and then in deep networks, and a restart cures it",
        "Single runs at large depth were lost to NaN and trained with another seed.",
        "All runs at p = 11–19 together, ten at least, in the precision of the most; of any number "
        "of epochs, of a seed the longest. Holds if some diverged, fewer than half, and all those "
        "trained when restarted, to twice chance if for less than 60 epochs. Does not hold if half "
        "or more diverged, a restart diverged too, or none diverged and the exact 95 % interval of "
        "the rate ends below 20 %. As first stated, the test took runs of 60 epochs alone. Those "
        "of one epoch, of 20 seeds a depth, were made to count how often, and were put into it, "
        "with what cures one of them, after they were seen; both verdicts are given.",
        partial(occasional, setting=ENORM, depths=DEEP, enough=10, rate=0.2),
    ),
    Claim(
        "softmax",
        "A softmax on the output stops the divergence, and the learning",
        "With a softmax before the loss, which takes one itself, nothing is NaN any more, and "
        "the accuracy stays near chance.",
        "With bias at p = 11–19, all runs, two at least, end without a restart at 20 % or less, "
        "twice chance. Holds with two depths for it, does not hold with one against it.",
        partial(all_do, parts=[Expected(SOFTMAX, DEEP, divergence.finishes_at_chance)], needed=2),
    ),
    Claim(
        "reproduced",
        "Our accuracies agree with the published ones",
        "Figure 2 of the study: four methods without bias, one or two runs a point.",
        "Each published point against our 95 % prediction interval for as many runs as were "
        "published. A method's points are reproduced if 8 of 10 lie inside, and not if 3 lie "
        "outside, as chance has it about once in 90 times. Holds if all four methods' are, does "
        "not hold if one method's are not. The points were read off a figure, to ±0.05 %, and "
        "ENorm's at p = 3 and 19, which others hide, to ±0.15 %.",
        partial(
            reproduction.reproduced,
            parts=dict.fromkeys((BASELINE, BN, ENORM, BOTH), DEPTHS),
            share=0.8,
        ),
    ),
    Claim(
        "reproduced-bias",
        "Our accuracies with bias agree with the published ones",
        "Figure 3 of the study: Baseline and ENorm with bias, two runs a point.",
        "As before; for ENorm at p = 1–9, where 4 of 5 have to lie inside.",
        partial(
            reproduction.reproduced,
            parts={BASELINE_BIAS: DEPTHS, ENORM_BIAS: SHALLOW},
            share=0.8,
        ),
    ),
    Claim(
        "depth-baseline",
        "Depth costs the baseline accuracy",
        "The baseline's accuracy falls from the shallowest to the deepest network.",
        "Baseline at p = 1 minus p = 19. Holds if the interval lies above 0, does not hold if "
        "below.",
        partial(between_depths, setting=BASELINE, high=(1,), low=19),
    ),
    Claim(
        "depth-both",
        "ENorm + BN at p = 17 is as accurate as at p = 1",
        "With both, accuracy stays level before it falls at the last depth.",
        "ENorm + BN at p = 17 minus p = 1. Holds if the interval lies above −0.5 %, does not hold "
        "if not and below 0.",
        partial(between_depths, setting=BOTH, high=(17,), low=1, margin=0.5),
    ),
    Claim(
        "bfloat16",
        "Products in bfloat16 train networks as accurate as float32 to half a percent",
        "Not published: whether our faster runs can stand for the study's.",
        "Runs paired by setting and seed, three pairs at least for each method at p = 1, 9 and "
        "19. Holds if the interval of the mean difference lies within ±0.5 %, does not hold if "
        "outside.",
        precision.equal,
    ),
    Claim(
        "bn-time",
        "On a CPU too, batch normalization takes 20 to 30 % of the training time (float32)",
        "Said of convolutional networks on GPUs.",
        "The time of a step with BN that is not the baseline's, round by round, in ENorm's "
        "convolutional network, with BN after every convolution but the last, and in a ResNet of 8 "
        "layers. A network speaks for the claim if the interval lies within 20 to 30 %, against "
        "it if outside. Holds with both for it, does not hold with one against it. The fully "
        "connected network is shown beside them.",
        partial(cost.share, low=20.0, high=30.0),
    ),
    Claim(
        "enorm-cost",
        "On a CPU too, a step with ENorm costs less than one with BN or GN (float32)",
        "Said of the time of training on GPUs.",
        "The time of a step with ENorm over that with BN, and over that with GN, round by round, "
        "in the fully connected network, ENorm's convolutional one and a ResNet of 8 layers. A "
        "network speaks for the claim if both intervals lie below 0, against it if one lies "
        "above. Holds with all three for it, does not hold with one against it.",
        cost.cheaper,
    ),
    *variants.CLAIMS,
    *original.CLAIMS,
    *networks.CLAIMS,
]
