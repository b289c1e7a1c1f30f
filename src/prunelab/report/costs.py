"""What accuracy is weighed against, and what it is called in every picture and table."""

COSTS = {
    "macs": "MACs per input (zeros count too)",
    "params_nonzero": "non-zero parameters",
    "size_compressed_bytes": "bytes of the weights, compressed",
}
