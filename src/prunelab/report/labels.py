"""The names of measures that every picture and table shows to people, and how long lists are cut.

This module may not import matplotlib: the tables of commands need none.
"""

DENSE = "dense"  # the name of the network that was not pruned

# What accuracy is weighed against.
COSTS = {
    "macs": "MACs per input (zeros count too)",
    "params_nonzero": "non-zero parameters",
    "size_compressed_bytes": "bytes of the weights, compressed",
}
# The same, in few letters.
SHORT_COSTS = {
    "macs": "MACs",
    "params_nonzero": "non-zeros",
    "size_compressed_bytes": "bytes",
}
KEPT = "weights kept, % of the dense network"
LATENCY = "latency, ms, at batch size {batch}"

# The states of a network by the key of their accuracy.
STATES = {"accuracy": "after fine-tuning", "accuracy_pruned": "before fine-tuning"}
