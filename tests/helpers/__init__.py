"""What several test modules share. Nothing in here is a test.

What is imported after this has NumPy with portable bits, as in a stage.
"""

from prunelab.core.lifecycle import set_load_time_variables

set_load_time_variables()
