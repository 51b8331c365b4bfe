"""The ways to combine adapters, in the words of peft's `add_weighted_adapter`, with what each is."""

from __future__ import annotations

COMBINATIONS: dict[str, str] = {
    "cat": "The exact weighted sum; the ranks add up.",
    "svd": "The weighted sum, cut back to the largest rank of the parts.",
    "linear": "Sums of the factors: quick, and only roughly the sum of the updates.",
    "ties": "TIES: small values dropped, one sign elected per value; on the factors.",
    "ties_svd": "TIES on the updates themselves, cut back to the largest rank of the parts.",
    "dare_linear": "DARE: values dropped at random and the others scaled up, then summed; on the factors.",
    "dare_ties": "DARE, then TIES; on the factors.",
    "dare_ties_svd": "DARE, then TIES, on the updates themselves, cut back to the largest rank.",
}
"""Name -> one sentence. The first is the default."""
