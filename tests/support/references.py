"""Slow, obvious twins of the core's operations, as oracles for the tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

WORD = 2**32


def levenshtein(a: bytes, b: bytes) -> int:
    """Edit distance by the textbook matrix, with row 0 and column 0 for the empty prefixes."""
    matrix = [
        [i + j if i == 0 or j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)
    ]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            matrix[i][j] = min(
                matrix[i - 1][j] + 1,
                matrix[i][j - 1] + 1,
                matrix[i - 1][j - 1] + (a[i - 1] != b[j - 1]),
            )
    return matrix[-1][-1]


def align(
    draft: Sequence[bytes], target: Sequence[bytes], band: int
) -> tuple[list[tuple[int, int]], int]:
    """Dynamic time warping, the matrix a dictionary: the target tokens' spans, and the cost."""
    if not draft and not target:
        return [], 0
    reach = max(band, abs(len(draft) - len(target)))
    best: dict[tuple[int, int], int] = {}
    came_from: dict[tuple[int, int], tuple[int, int]] = {}
    for i, a in enumerate(draft):
        for j, b in enumerate(target):
            if abs(i - j) > reach:
                continue
            before = [c for c in [(i - 1, j - 1), (i - 1, j), (i, j - 1)] if c in best]
            best[i, j] = levenshtein(a, b)
            if before:
                came_from[i, j] = min(before, key=best.__getitem__)  # the first of equals
                best[i, j] += best[came_from[i, j]]
    cell = (len(draft) - 1, len(target) - 1)
    cost = best[cell]
    path = [cell]
    while cell in came_from:
        cell = came_from[cell]
        path.append(cell)
    spans = []
    for j in range(len(target)):
        beside = [i for i, column in path if column == j]
        spans.append((min(beside), max(beside) + 1))
    return spans, cost


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox 4x32-10 in the notation of its paper (Random123, SC 2011)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        hi0, lo0 = divmod(0xD2511F53 * c0, WORD)
        hi1, lo1 = divmod(0xCD9E8D57 * c2, WORD)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) % WORD, (k1 + 0xBB67AE85) % WORD
    return [c0, c1, c2, c3]


def noise(seed: int, state: Sequence[int], key: int) -> float:
    """Log of the Exp(1) variate of one token at one state."""
    row, byte_offset, empty_tokens = state
    key %= 2**64
    stream = philox([row % WORD, row // WORD, 0, 0], [seed % WORD, seed // WORD])[:2]
    words = philox([key % WORD, key // WORD, byte_offset, empty_tokens], stream)
    bits = words[0] * WORD + words[1]
    if bits < 2**63:
        return math.log(-math.log1p(-(bits + 0.5) / 2**64))
    return math.log(-math.log((2**64 - 1 - bits + 0.5) / 2**64))


def sample(
    logits: Sequence[Sequence[float]],
    keys: Sequence[int],
    seed: int,
    states: Sequence[Sequence[int]],
) -> list[int]:
    """Draw the argmax of logit - log E over the tokens that have a key."""
    ids = []
    for row, state in zip(logits, states, strict=True):
        scores = [
            logit - noise(seed, state, key) if logit > -math.inf else -math.inf
            for logit, key in zip(row, keys, strict=False)
        ]
        ids.append(scores.index(max(scores)))
    return ids


def candidates(
    logits: Sequence[Sequence[float]],
    keys: Sequence[int],
    seed: int,
    states: Sequence[Sequence[int]],
    count: int,
) -> tuple[list[list[int]], list[list[float]]]:
    """The tokens of the greatest logit - log E, and the softmax of that over each row."""
    ids, shares = [], []
    for row, state in zip(logits, states, strict=True):
        finite = [v for v, logit in enumerate(row[: len(keys)]) if logit > -math.inf]
        log_exponentials = {v: noise(seed, state, keys[v]) for v in finite}
        best = sorted(finite, key=lambda v: (log_exponentials[v] - row[v], v))[:count]
        # The noise is added after the greatest logit is subtracted, so that none of it is lost.
        top = max(row[v] for v in finite)
        weights = {v: math.exp(row[v] - top - log_exponentials[v]) for v in finite}
        total = math.fsum(weights.values())
        padding = count - len(best)
        ids.append(best + [-1] * padding)
        shares.append([weights[v] / total for v in best] + [0.0] * padding)
    return ids, shares


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """The softmax of logits."""
    top = max(logits)
    weights = [math.exp((x - top) / temperature) for x in logits]
    total = math.fsum(weights)
    return [w / total for w in weights]


def draw(weights: Sequence[float], uniform: float) -> int | None:
    """Inverse transform: the first token up to which the weights exceed uniform * total."""
    index = uniform * math.fsum(weights)
    reached = 0.0
    for token, weight in enumerate(weights):
        reached += weight
        if reached > index:
            return token
    return None


def verify(
    draft: Sequence[int],
    q: Sequence[Sequence[float]] | None,
    p: Sequence[Sequence[float]],
    uniforms: Sequence[float],
) -> list[int]:
    """Speculative sampling of one chain: the accepted tokens and one more."""
    emitted: list[int] = []
    for i, x in enumerate(draft):
        row = [float(v == x) for v in range(len(p[i]))] if q is None else q[i]
        if x >= 0 and (row[x] == 0 < p[i][x] or uniforms[i] < p[i][x] / (row[x] or 1.0)):
            emitted.append(x)
            continue
        residual = [max(a - b, 0.0) for a, b in zip(p[i], row, strict=True)]
        token = draw(residual, uniforms[-1])
        return [*emitted, draw(p[i], uniforms[-1]) if token is None else token]
    return [*emitted, draw(p[len(draft)], uniforms[-1])]


def walk(
    picked: Sequence[int], tokens: Sequence[int], parents: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The tokens emitted in one tree and the nodes accepted; each child is searched for."""
    node, emitted, accepted = -1, [], []
    while True:
        token = picked[node + 1]
        emitted.append(token)
        children = [i for i, parent in enumerate(parents) if parent == node and tokens[i] == token]
        if not children:
            return emitted, accepted
        node = children[0]
        accepted.append(node)


POINT_MASS, WITHIN, MERGE, INSIDE = range(4)


def transfer(
    rows: Sequence[Sequence[float]],
    draft: Sequence[int],
    target: Sequence[int],
    spans: Sequence[tuple[int, int]],
    draft_table: Sequence[bytes],
    target_table: Sequence[bytes],
    expansions: Sequence[Sequence[int]],
) -> tuple[list[list[float]], list[int]]:
    """Distributions and cases of proxy tokens; byte offsets are recomputed for each."""

    def offset(table: Sequence[bytes], ids: Sequence[int]) -> int:
        return len(b"".join(table[i] for i in ids))

    probs, cases = [], []
    for j, (t, (lo, hi)) in enumerate(zip(target, spans, strict=True)):
        start, end = offset(target_table, target[:j]), offset(target_table, target[: j + 1])
        draft_start, draft_end = offset(draft_table, draft[:lo]), offset(draft_table, draft[:hi])
        alike = (start == end) == (draft_start == draft_end)
        q = [0.0] * len(target_table)
        case = POINT_MASS
        if lo < hi:
            if hi == lo + 1 and start == draft_start and end <= draft_end and alike:
                case = WITHIN
            elif hi > lo + 1 and start == draft_start and end == draft_end and start < end:
                case = MERGE
            elif hi == lo + 1 and draft_start < start < end <= draft_end:
                case = INSIDE
        if case in (WITHIN, MERGE):
            for d, expansion in enumerate(expansions):
                if expansion:
                    q[expansion[0]] += rows[lo][d]
        if case == MERGE:
            product = math.prod(rows[i][draft[i]] for i in range(lo, hi))
            if expansions[draft[lo]]:
                q[expansions[draft[lo]][0]] -= product
            q[t] += product
        if case == INSIDE:
            starts = [k for k in range(j) if offset(target_table, target[:k]) == draft_start]
            taken = list(target[starts[-1] : j]) if starts else []
            for d, expansion in enumerate(expansions):
                n = len(taken)
                if n and list(expansion[:n]) == taken and len(expansion) > n:
                    q[expansion[n]] += rows[lo][d]
            q = [x / math.fsum(q) for x in q] if any(q) else q
        if not any(q):
            case = POINT_MASS
            q[t] = 1.0
        probs.append(q)
        cases.append(case)
    return probs, cases


def mapped(
    pool: Sequence[Sequence[float]],
    rows: Sequence[int],
    ids: Sequence[int],
    expansions: Sequence[Sequence[int]],
    columns: int,
) -> list[list[float]]:
    """What each token of one chain was drawn from, given the row that it was drawn from and how the
    target spells each draft token. Tokens with the row of the one before go on in an expansion.
    """
    probs = []
    taken: list[int] = []
    for t, (row, token) in enumerate(zip(rows, ids, strict=True)):
        if t == 0 or rows[t - 1] != row:
            taken = []
        q = [0.0] * columns
        for expansion, probability in zip(expansions, pool[row], strict=False):
            if len(expansion) > len(taken) and list(expansion[: len(taken)]) == taken:
                q[expansion[len(taken)]] += probability
        mass = math.fsum(q)
        probs.append([x / mass for x in q] if taken and mass else q)
        taken = [*taken, token]
    return probs


def restrict(row: Sequence[float], exact: Sequence[int], columns: int) -> list[float]:
    """One distribution restricted to the shared tokens."""
    q = [0.0] * columns
    for probability, t in zip(row, exact, strict=False):
        if t >= 0:
            q[t] += probability
    return [x / math.fsum(q) for x in q]


def follow(ids: list[int], data: bytes, vocabulary) -> list[int]:
    """Tokens that spell ``data``: ``ids`` up to 4 before the first difference, the rest encoded."""
    starts = [0]
    for i in ids:
        piece = vocabulary.token_bytes(i)
        if data[starts[-1] : starts[-1] + len(piece)] != piece:
            break
        starts.append(starts[-1] + len(piece))
    kept = len(starts) - 1
    if kept == len(ids) and starts[-1] == len(data):
        return ids
    kept = max(kept - 4, 0)
    while kept and 0x80 <= data[starts[kept]] < 0xC0:
        kept -= 1
    return ids[:kept] + vocabulary.encode(data[starts[kept] :])
