"""Products and statistics of weights that are lists of connections, block by block: loops of one thread.

A *block* is the connections of units that have the same inputs (its *members*), for example all maps of a locally
connected layer at one position.  The inputs are listed once, and data read for them serve every member.  Flat arrays
hold all blocks of a product; block g has

    inputs[first[g] : first[g + 1]]        units that are summed over, as positions in the array of activations
    outs[members[g] : members[g + 1]]      its members, as positions in the array of results
    starts[members[g] : members[g + 1]]    position in W of the first weight of each member; the others follow it
    positions[first[g] : first[g + 1]]     if it is not empty, instead of starts: position in W of each weight of the
                                           block's only member

Without compilation ``modelpar.weights.sparse`` does the same by scipy.sparse.
"""

from __future__ import annotations

import numpy as np

from modelpar.kernels.llvm.listed import TILE, sums_1x1, sums_1x2, sums_1x4, sums_2x1, sums_2x2, sums_4x1
from modelpar.kernels.llvm.vectors import address, count_bits
from modelpar.kernels.products.aligned import aligned_int32
from modelpar.kernels.products.bounds import steps_of
from modelpar.kernels.sampling.philox import gaussian_rows
from modelpar.kernels.statistics.update import update_row
from modelpar.machine.compilation import njit

WORD = 64


@njit(cache=True, nogil=True)
def sum_blocks(start, stop, first, inputs, members, outs, starts, positions, widest, W, scale, words, origin, out):  # type: ignore[no-untyped-def]
    """out[member] (batch,) int32 = sum of round(W * scale) of the inputs that are on; blocks ``start .. stop - 1``.

    words (units, n_words) uint64, one plane; out (units, batch); with an ``origin`` of 0 or more, the sums of member m
    are written to row m - origin of out instead of row outs[m]
    """
    n_words, batch = words.shape[1], out.shape[1]
    padded = (n_words + TILE - 1) // TILE * TILE
    states = np.zeros((padded, widest), np.uint64)
    weights = np.zeros(widest * TILE, np.int32)
    sums = aligned_int32(TILE * WORD)
    stride = 8 * widest
    for g in range(start, stop):
        begin, n = first[g], first[g + 1] - first[g]
        if n == 0:
            for m in range(members[g], members[g + 1]):
                out[outs[m] if origin < 0 else m - origin] = 0
            continue
        for k in range(n):
            row = words[inputs[begin + k]]
            for w in range(n_words):
                states[w, k] = row[w]
        low = members[g]
        while low < members[g + 1]:
            remaining = members[g + 1] - low
            n_units = 4 if remaining >= 3 else remaining
            for u in range(n_units):
                if u >= remaining:
                    for k in range(n):
                        weights[k * n_units + u] = 0
                elif len(positions):
                    for k in range(n):
                        weights[k * n_units + u] = np.int32(np.rint(W[positions[begin + k]] * scale))
                else:
                    source = starts[low + u]
                    for k in range(n):
                        weights[k * n_units + u] = np.int32(np.rint(W[source + k] * scale))
            w = 0
            while w < n_words:
                tile = TILE // n_units
                if n_words - w <= tile // 2:
                    tile = tile // 2
                if n_words - w <= tile // 2:
                    tile = tile // 2
                source = address(states) + w * stride
                if n_units == 4:
                    sums_4x1(source, stride, address(weights), n, address(sums))
                elif n_units == 2 and tile == 2:
                    sums_2x2(source, stride, address(weights), n, address(sums))
                elif n_units == 2:
                    sums_2x1(source, stride, address(weights), n, address(sums))
                elif tile == 4:
                    sums_1x4(source, stride, address(weights), n, address(sums))
                elif tile == 2:
                    sums_1x2(source, stride, address(weights), n, address(sums))
                else:
                    sums_1x1(source, stride, address(weights), n, address(sums))
                low_sample = w * WORD
                n_samples = min(batch - low_sample, tile * WORD)
                for u in range(min(n_units, remaining)):
                    row = outs[low + u] if origin < 0 else low + u - origin
                    target = out[row, low_sample : low_sample + n_samples]
                    source_row = sums[u * tile * WORD : u * tile * WORD + n_samples]
                    for s in range(n_samples):
                        target[s] = source_row[s]
                w += tile
            low += n_units


@njit(cache=True, nogil=True)
def add_signed_blocks(start, stop, first, members, outs, starts, positions, W, sums):  # type: ignore[no-untyped-def]
    """sums (2, units) of positive and of negative weights of every member, in ``bounds.STEPS``; returns those of the
    largest weight."""
    largest = np.int32(0)
    for g in range(start, stop):
        begin, n = first[g], first[g + 1] - first[g]
        for m in range(members[g], members[g + 1]):
            above, below = np.int64(0), np.int64(0)
            for k in range(n):
                weight = W[positions[begin + k]] if len(positions) else W[starts[m] + k]
                steps = steps_of(weight)
                plus = steps if weight > 0 else np.int32(0)
                above += plus
                below += steps - plus
                largest = max(largest, steps)
            sums[0, outs[m]], sums[1, outs[m]] = above, below
    return largest


@njit(cache=True, nogil=True)
def multiply_blocks(start, stop, first, inputs, members, outs, starts, positions, W, steps, x, out):  # type: ignore[no-untyped-def]
    """out[member] = sum of W * x over the inputs, in their order.   x (units, batch), out (units, batch) of one type

    steps   weights are rounded to multiples of 1 / steps; 0: not rounded
    """
    for g in range(start, stop):
        begin, n = first[g], first[g + 1] - first[g]
        for m in range(members[g], members[g + 1]):
            target = out[outs[m]]
            target[:] = 0
            for k in range(n):
                weight = x.dtype.type(W[positions[begin + k]] if len(positions) else W[starts[m] + k])
                if steps > 0:
                    weight = np.rint(weight * steps) / steps
                row = x[inputs[begin + k]]
                for s in range(len(target)):
                    target[s] += weight * row[s]


@njit(cache=True, nogil=True)
def add_counts(counts, n, gathered, words, sign):  # type: ignore[no-untyped-def]
    """counts[k] += sign * (common ones of unit k of ``gathered`` (n_words, n) and each plane of ``words``).

    words (planes, n_words): ones of plane p count 2^p
    """
    n_planes, n_words = words.shape
    for w in range(n_words):
        line = gathered[w]
        p = 0
        while p + 4 <= n_planes:
            a, b, c, d = words[p, w], words[p + 1, w], words[p + 2, w], words[p + 3, w]
            for k in range(n):
                x = line[k]
                ones = (
                    count_bits(x & a) + (count_bits(x & b) << 1) + (count_bits(x & c) << 2) + (count_bits(x & d) << 3)
                )
                counts[k] += sign * (ones << p)
            p += 4
        while p < n_planes:
            a = words[p, w]
            for k in range(n):
                counts[k] += sign * (count_bits(line[k] & a) << p)
            p += 1


@njit(cache=True, nogil=True)
def gather_words(words, inputs, gathered):  # type: ignore[no-untyped-def]
    """gathered (n_words, n) = words (units, n_words) of the inputs (n,)"""
    for k in range(len(inputs)):
        row = words[inputs[k]]
        for w in range(len(row)):
            gathered[w, k] = row[w]


@njit(cache=True, nogil=True)
def count_member(counts, n, data, model, s0, s1):  # type: ignore[no-untyped-def]
    """counts (n,) = C of one member, from the words of its inputs in both phases"""
    counts[:n] = 0
    add_counts(counts, n, data, s0, 1)
    add_counts(counts, n, model, s1, -1)


@njit(cache=True, nogil=True)
def learn_blocks(  # type: ignore[no-untyped-def]
    start, stop, first, inputs, members, outs, starts, widest, v0, s0, v1, s1, W, V, carry, gain, shrink
):
    """C = v0 s0^T - v1 s1^T on the connections, then V = carry V + gain C; V -= shrink W; W += V.

    v0, v1 (units, n_words), s0, s1 (units, planes, n_words) uint64
    """
    counts = np.zeros(widest, np.int64)
    data, model = np.zeros((v0.shape[1], widest), np.uint64), np.zeros((v1.shape[1], widest), np.uint64)
    for g in range(start, stop):
        n = first[g + 1] - first[g]
        gather_words(v0, inputs[first[g] : first[g + 1]], data)
        gather_words(v1, inputs[first[g] : first[g + 1]], model)
        for m in range(members[g], members[g + 1]):
            count_member(counts, n, data, model, s0[outs[m]], s1[outs[m]])
            update_row(W[starts[m] : starts[m] + n], V[starts[m] : starts[m] + n], counts, carry, gain, shrink)


@njit(cache=True, nogil=True)
def count_blocks(start, stop, first, inputs, members, outs, starts, widest, v0, s0, v1, s1, out):  # type: ignore[no-untyped-def]
    """out (connections,), of a type that can represent it, = C as in ``learn_blocks``"""
    counts = np.zeros(widest, np.int64)
    data, model = np.zeros((v0.shape[1], widest), np.uint64), np.zeros((v1.shape[1], widest), np.uint64)
    for g in range(start, stop):
        n = first[g + 1] - first[g]
        gather_words(v0, inputs[first[g] : first[g + 1]], data)
        gather_words(v1, inputs[first[g] : first[g + 1]], model)
        for m in range(members[g], members[g + 1]):
            count_member(counts, n, data, model, s0[outs[m]], s1[outs[m]])
            target = out[starts[m] : starts[m] + n]
            for k in range(n):
                target[k] = counts[k]


@njit(cache=True, nogil=True)
def add_blocks(start, stop, first, inputs, members, outs, starts, widest, v0, s0, v1, s1, V, gain):  # type: ignore[no-untyped-def]
    """V (connections,) = V + gain * C as in ``learn_blocks``"""
    counts = np.zeros(widest, np.int64)
    data, model = np.zeros((v0.shape[1], widest), np.uint64), np.zeros((v1.shape[1], widest), np.uint64)
    for g in range(start, stop):
        n = first[g + 1] - first[g]
        gather_words(v0, inputs[first[g] : first[g + 1]], data)
        gather_words(v1, inputs[first[g] : first[g + 1]], model)
        for m in range(members[g], members[g + 1]):
            count_member(counts, n, data, model, s0[outs[m]], s1[outs[m]])
            target = V[starts[m] : starts[m] + n]
            for k in range(n):
                target[k] += gain * V.dtype.type(counts[k])


@njit(cache=True, nogil=True)
def count_probability_blocks(  # type: ignore[no-untyped-def]
    start, stop, first, inputs, members, outs, starts, v0, p0, v1, p1, scale, out
):
    """out (connections,) int64 = sum of round(p * scale) over the samples in which the input is on, data minus model.

    v0, v1 (units, n_words) uint64; p0, p1 (units, batch) float32
    """
    batch = p0.shape[1]
    steps = np.zeros((2, batch), np.int64)
    for g in range(start, stop):
        n = first[g + 1] - first[g]
        for m in range(members[g], members[g + 1]):
            for s in range(batch):
                steps[0, s] = np.int64(np.rint(p0[outs[m], s] * scale))
                steps[1, s] = np.int64(np.rint(p1[outs[m], s] * scale))
            for k in range(n):
                unit = inputs[first[g] + k]
                total = np.int64(0)
                for w in range(v0.shape[1]):
                    a, b = v0[unit, w], v1[unit, w]
                    for s in range(w * WORD, min(batch, (w + 1) * WORD)):
                        bit = np.uint64(s - w * WORD)
                        total += steps[0, s] * np.int64((a >> bit) & np.uint64(1))
                        total -= steps[1, s] * np.int64((b >> bit) & np.uint64(1))
                out[starts[m] + k] = total


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def dot(a, b):  # type: ignore[no-untyped-def]
    """Dot product of two rows (batch,), added in an order that depends only on their length."""
    total = a.dtype.type(0)
    for s in range(len(a)):
        total += a[s] * b[s]
    return total


@njit(cache=True, nogil=True)
def add_products(start, stop, first, inputs, members, outs, starts, v, s, V, gain, carry):  # type: ignore[no-untyped-def]
    """V = carry * V + gain * v s^T on the connections.   v, s (units, batch) and V (connections,) of one type"""
    for g in range(start, stop):
        n = first[g + 1] - first[g]
        for m in range(members[g], members[g + 1]):
            row = s[outs[m]]
            target = V[starts[m] : starts[m] + n]
            for k in range(n):
                product = gain * dot(v[inputs[first[g] + k]], row)
                target[k] = carry * target[k] + product if carry != 0 else product


@njit(cache=True, nogil=True)
def subtract_outer(start, stop, first, inputs, members, outs, starts, V, carry, a, d, c, f):  # type: ignore[no-untyped-def]
    """V = carry * V - (a[input] * d[member] + c[input] * f[member]) on the connections; all of one type"""
    for g in range(start, stop):
        n = first[g + 1] - first[g]
        for m in range(members[g], members[g + 1]):
            one, other = d[outs[m]], f[outs[m]]
            target = V[starts[m] : starts[m] + n]
            for k in range(n):
                unit = inputs[first[g] + k]
                target[k] = carry * target[k] - (a[unit] * one + c[unit] * other)


@njit(cache=True, nogil=True)
def scale_outer(start, stop, first, inputs, members, outs, starts, V, a, d):  # type: ignore[no-untyped-def]
    """V *= a[input] * d[member] on the connections; all of one type"""
    for g in range(start, stop):
        n = first[g + 1] - first[g]
        for m in range(members[g], members[g + 1]):
            target, one = V[starts[m] : starts[m] + n], d[outs[m]]
            for k in range(n):
                target[k] *= a[inputs[first[g] + k]] * one


@njit(cache=True, nogil=True)
def draw_weights(first, inputs, members, outs, starts, units, columns, tag, key0, key1, W):  # type: ignore[no-untyped-def]
    """W[connection] = the normal draw of the visible unit's id and the hidden unit's, the same as for a dense matrix.

    units (inputs' positions,) and columns (outs' positions,) are global ids, as for philox.gaussian_rows
    """
    for g in range(len(first) - 1):
        n = first[g + 1] - first[g]
        ids = units[inputs[first[g] : first[g + 1]]]
        for m in range(members[g], members[g + 1]):
            row = W[starts[m] : starts[m] + n].reshape(n, 1)
            row[:] = 0
            gaussian_rows(row, 0, columns[outs[m] : outs[m] + 1], ids, tag, key0, key1, row)


@njit(cache=True, nogil=True)
def norms(W, starts, out):  # type: ignore[no-untyped-def]
    """out[j] = Euclidean norm of W[starts[j] : starts[j + 1]], summed in order, in float64"""
    for j in range(len(out)):
        total = 0.0
        for k in range(starts[j], starts[j + 1]):
            total += np.float64(W[k]) * np.float64(W[k])
        out[j] = np.sqrt(total)


@njit(cache=True, nogil=True)
def scale_members(first, members, outs, starts, factors, W):  # type: ignore[no-untyped-def]
    """Multiply the weights of every member by the factor (units,) of its unit."""
    for g in range(len(first) - 1):
        n = first[g + 1] - first[g]
        for m in range(members[g], members[g + 1]):
            factor = factors[outs[m]]
            if factor != 1:
                for k in range(starts[m], starts[m] + n):
                    W[k] *= factor
