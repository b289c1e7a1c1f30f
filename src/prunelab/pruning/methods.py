"""METHODS: the pruning methods by name, each a criterion, a granularity, a scope and a schedule.

They are named here and looked up where a network is pruned, so that reading this table needs no
torch.
"""

from dataclasses import dataclass
from typing import Literal

from prunelab.config.restart import Restart
from prunelab.core.registry import Table

# Kinds of units that can be removed from a network.
Kind = Literal["channel", "head", "hidden"]
KINDS: dict[str, Kind] = {"channel": "channel", "head": "head", "hidden": "hidden"}

# Criteria that look at examples, beyond the shape of one.
DATA_CRITERIA = frozenset({"wanda", "taylor", "taylor_filter", "fisher", "snip", "grasp"})
# Those in which batch norms average over the batch.
BATCH_STATISTICS_CRITERIA = frozenset({"snip", "grasp"})
# Schedules that do not train.
UNTRAINED_SCHEDULES = frozenset({"one_shot", "repeated"})


@dataclass(frozen=True)
class Method:
    """How a method scores (criterion), what it removes (granularity), what competes (scope), when.

    Every part is the name of an entry: of `CRITERIA`, of `GRANULARITIES` or `KINDS`, of
    `select.Scope` or `groups.SCOPES`, and of `SCHEDULES`. A granularity zeroes weights by masks. A
    kind of units is removed from the network. `restart` says which weights the pruned network
    starts from when it is trained again.
    """

    criterion: str
    granularity: str
    scope: str
    schedule: str = "one_shot"
    restart: Restart = Restart.NONE

    @property
    def kind(self) -> Kind | None:
        """The kind of units that the method removes, or None if it zeroes weights by masks."""
        return KINDS.get(self.granularity)

    @property
    def masks(self) -> bool:
        """Whether the method zeroes weights by masks; otherwise it removes units."""
        return self.kind is None

    @property
    def needs_data(self) -> bool:
        """Whether the method scores weights by examples."""
        return self.criterion in DATA_CRITERIA

    @property
    def trains(self) -> bool:
        """Whether the network is trained within the method's schedule."""
        return self.schedule not in UNTRAINED_SCHEDULES


_ENTRIES: dict[str, Method] = {
    # single weights
    "random_unstructured": Method("random", "weight", "global"),
    "l1_unstructured": Method("l1", "weight", "global"),
    "taylor_unstructured": Method("taylor", "weight", "global"),
    "fisher_unstructured": Method("fisher", "weight", "global"),
    "lamp_unstructured": Method("lamp", "weight", "global"),
    "wanda_unstructured": Method("wanda", "weight", "rowwise"),
    "snip_unstructured": Method("snip", "weight", "global"),
    "grasp_unstructured": Method("grasp", "weight", "global"),
    "synflow_unstructured": Method("synflow", "weight", "global", "repeated"),
    "random_unstructured_layerwise": Method("random", "weight", "layerwise"),
    "l1_unstructured_layerwise": Method("l1", "weight", "layerwise"),
    # single weights, selected at initialisation
    "random_at_init": Method("random", "weight", "global", restart=Restart.INIT),
    "snip_at_init": Method("snip", "weight", "global", restart=Restart.INIT),
    "grasp_at_init": Method("grasp", "weight", "global", restart=Restart.INIT),
    "synflow_at_init": Method("synflow", "weight", "global", "repeated", Restart.INIT),
    # single weights, in several steps
    "random_unstructured_iterative": Method("random", "weight", "global", "iterative"),
    "l1_unstructured_iterative": Method("l1", "weight", "global", "iterative"),
    "l1_unstructured_gradual": Method("l1", "weight", "global", "gradual"),
    "l1_unstructured_lottery": Method("l1", "weight", "global", "iterative", Restart.WEIGHTS),
    "random_unstructured_lottery": Method(
        "random", "weight", "global", "iterative", Restart.WEIGHTS
    ),
    "l1_unstructured_rate_rewinding": Method("l1", "weight", "global", restart=Restart.RATE),
    "l1_unstructured_scratch": Method("l1", "weight", "global", restart=Restart.SCRATCH),
    # small groups of weights
    "random_n_of_m": Method("random", "n_of_m", "layerwise"),
    "l1_n_of_m": Method("l1", "n_of_m", "layerwise"),
    "random_pattern": Method("random", "pattern", "layerwise"),
    "l1_pattern": Method("l1", "pattern", "layerwise"),
    "random_vector": Method("random", "vector", "layerwise"),
    "l1_vector": Method("l1", "vector", "layerwise"),
    "random_kernel": Method("random", "kernel", "layerwise"),
    "l1_kernel": Method("l1", "kernel", "layerwise"),
    "random_block": Method("random", "block", "layerwise"),
    "l1_block": Method("l1", "block", "layerwise"),
    "random_filter": Method("random", "filter", "layerwise"),
    "l1_filter": Method("l1", "filter", "layerwise"),
    "l2_filter": Method("l2", "filter", "layerwise"),
    # channels, removed from the network
    "random_channel": Method("random", "channel", "uniform"),
    "l1_channel": Method("l1", "channel", "uniform"),
    "l2_channel": Method("l2", "channel", "uniform"),
    "bn_scale_channel": Method("bn_scale", "channel", "uniform"),
    "taylor_channel": Method("taylor_filter", "channel", "uniform"),
    "fisher_channel": Method("fisher", "channel", "uniform"),
    "fpgm_channel": Method("fpgm", "channel", "uniform"),
    "lamp_channel": Method("lamp", "channel", "uniform"),
    "wanda_channel": Method("wanda", "channel", "uniform"),
    "random_channel_global": Method("random", "channel", "ranked_relatively"),
    "l1_channel_global": Method("l1", "channel", "ranked_relatively"),
    "l2_channel_global": Method("l2", "channel", "ranked_relatively"),
    "bn_scale_channel_global": Method("bn_scale", "channel", "ranked_together"),
    "taylor_channel_global": Method("taylor_filter", "channel", "ranked_together"),
    "fisher_channel_global": Method("fisher", "channel", "ranked_together"),
    # channels, in several steps
    "random_channel_iterative": Method("random", "channel", "uniform", "iterative"),
    "l1_channel_iterative": Method("l1", "channel", "uniform", "iterative"),
    "l2_channel_iterative": Method("l2", "channel", "uniform", "iterative"),
    "taylor_channel_global_iterative": Method(
        "taylor_filter", "channel", "ranked_together", "iterative"
    ),
    "l2_channel_soft": Method("l2", "channel", "uniform", "soft"),
    "bn_scale_channel_sparse": Method("bn_scale", "channel", "ranked_together", "sparse (scales)"),
    "group_lasso_channel_sparse": Method(
        "l2", "channel", "ranked_relatively", "sparse (group_lasso)"
    ),
    "growing_l2_channel_sparse": Method("l1", "channel", "uniform", "sparse (growing_l2)"),
    "l1_channel_scratch": Method("l1", "channel", "uniform", restart=Restart.SCRATCH),
    # attention heads and feed-forward units of encoders, removed from the network
    "random_head": Method("random", "head", "uniform"),
    "l1_head": Method("l1", "head", "uniform"),
    "taylor_head": Method("taylor", "head", "uniform"),
    "random_hidden": Method("random", "hidden", "uniform"),
    "l1_hidden": Method("l1", "hidden", "uniform"),
    "taylor_hidden": Method("taylor", "hidden", "uniform"),
}
METHODS = Table("method", _ENTRIES, instance_of=Method)
