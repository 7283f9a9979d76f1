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


def enorm_groups(tensors, groups, c, p=2, cycles=1, order="sequential"):
    """ENorm over groups on copies of tensors by path: one unit at a time, every tensor rewritten.

    Units of a group with a loop move by the root of d; a unit's weight to itself does not count.
    """
    tensors = {path: np.array(w, np.float64) for path, w in tensors.items()}

    def norm(source, slots, others, i):
        parts = []
        for slot in slots:
            mine = np.broadcast_to(slot.grid == i, slot.shape).copy()
            for other in others:
                if other.path == slot.path:
                    mine &= other.grid != i
            parts.append(source[slot.path][mine])
        return np.linalg.norm(np.concatenate(parts), p)

    for _ in range(cycles):
        start = {path: w.copy() for path, w in tensors.items()}
        for group in groups:
            source = start if order == "simultaneous" else {k: w.copy() for k, w in tensors.items()}
            for i in range(group.size):
                incoming = norm(source, group.producers, group.consumers, i)
                outgoing = norm(source, group.consumers, group.producers, i)
                d = np.sqrt(outgoing / (c * incoming)) if incoming and outgoing else 1.0
                d = np.sqrt(d) if group.loops else d
                for slot in group.producers + group.vectors:
                    tensors[slot.path] *= np.where(slot.grid == i, d, 1)
                for slot in group.consumers:
                    tensors[slot.path] /= np.where(slot.grid == i, d, 1)
    return tensors


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
