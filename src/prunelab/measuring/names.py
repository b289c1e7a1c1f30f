"""What results are called by those who write them and those who read them; light enough for either."""

ALL = "all"  # the curve of all layers together, among those of single ones
