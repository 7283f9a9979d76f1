"""The papers' equations in float64 NumPy, unit by unit, as slow and plain as they read."""

import numpy as np


def enorm(kernels, biases, c, p=2, cycles=1, order="sequential", balance_last=True):
    """ENorm on copies of the lists of kernels (in, out) and biases (out,); returns scales too."""
    kernels = [np.array(w, np.float64) for w in kernels]
    biases = [np.array(b, np.float64) for b in biases]
    total = [np.ones(w.shape[1]) for w in kernels[:-1]]
    for _ in range(cycles):
        start = [w.copy() for w in kernels]
        for k in range(len(kernels) - 1 - (not balance_last)):
            source = kernels if order == "sequential" else start
            for i in range(kernels[k].shape[1]):
                incoming = np.linalg.norm(source[k][:, i], p)
                outgoing = np.linalg.norm(source[k + 1][i, :], p)
                d = 1.0
                if 0 < incoming < np.inf and 0 < outgoing < np.inf:
                    d = np.sqrt(outgoing / (c * incoming))
                kernels[k][:, i] *= d
                biases[k][i] *= d
                kernels[k + 1][i, :] /= d
                total[k][i] *= d
    return kernels, biases, total


def forward(kernels, biases, x):
    """Logits of the ReLU network, and the input of each layer."""
    inputs = []
    for k, (w, b) in enumerate(zip(kernels, biases, strict=True)):
        inputs.append(x)
        x = x @ w + b
        if k < len(kernels) - 1:
            x = np.maximum(x, 0)
    return x, inputs


def sgd_step(kernels, biases, x, labels, learning_rate, weight_decay):
    """One step of SGD on the mean cross-entropy, by hand; returns new lists and the loss."""
    logits, inputs = forward(kernels, biases, x)
    shifted = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(probabilities[rows, labels]).mean()
    delta = probabilities.copy()
    delta[rows, labels] -= 1
    delta /= len(labels)
    new_kernels, new_biases = [], []
    for k in reversed(range(len(kernels))):
        w, b = kernels[k], biases[k]
        new_kernels.insert(0, w - learning_rate * (inputs[k].T @ delta + weight_decay * w))
        new_biases.insert(0, b - learning_rate * (delta.sum(axis=0) + weight_decay * b))
        delta = (delta @ w.T) * (inputs[k] > 0)
    return new_kernels, new_biases, loss
