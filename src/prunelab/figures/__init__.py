"""Pictures by matplotlib. What they draw is prepared in `report/`."""

import matplotlib

# A user's matplotlibrc must not change the pictures.
matplotlib.rcdefaults()
# Names of classes and branches may contain a $, which must not begin a formula.
matplotlib.rcParams["text.parse_math"] = False
