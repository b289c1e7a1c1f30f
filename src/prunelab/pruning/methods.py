"""METHODS: the pruning methods by name, each a criterion, a granularity, a scope and a schedule."""

from dataclasses import dataclass
from typing import Literal

from prunelab.config.restart import Restart
from prunelab.pruning import criteria, schedules
from prunelab.pruning.criteria import Criterion
from prunelab.pruning.schedules import Schedule
from prunelab.pruning.structured import groups, penalties
from prunelab.pruning.unstructured import granularity, select
from prunelab.pruning.unstructured.granularity import Granularity

# Kinds of units that can be removed from a network.
Kind = Literal["channel", "head", "hidden"]


@dataclass(frozen=True)
class Method:
    """How a method scores (criterion), what it removes (granularity), what competes (scope), when.

    A `Granularity` zeroes weights by masks. A `Kind` of units is removed from the network.
    `restart` says which weights the pruned network starts from when it is trained again.
    """

    criterion: Criterion
    granularity: Granularity | Kind
    scope: select.Scope | groups.Scope
    schedule: Schedule = schedules.one_shot
    restart: Restart = Restart.NONE

    @property
    def masks(self) -> bool:
        """Whether the method zeroes weights by masks; otherwise it removes units."""
        return isinstance(self.granularity, Granularity)


GLOBAL, LAYERWISE, ROWWISE = select.Scope.GLOBAL, select.Scope.LAYERWISE, select.Scope.ROWWISE
UNIFORM, TOGETHER, RELATIVE = groups.uniform, groups.ranked_together, groups.ranked_relatively
WEIGHT, N_OF_M, PATTERN = granularity.WEIGHT, granularity.N_OF_M, granularity.PATTERN
VECTOR, KERNEL, BLOCK, FILTER = (
    granularity.VECTOR,
    granularity.KERNEL,
    granularity.BLOCK,
    granularity.FILTER,
)

METHODS: dict[str, Method] = {
    # single weights
    "random_unstructured": Method(criteria.random, WEIGHT, GLOBAL),
    "l1_unstructured": Method(criteria.l1, WEIGHT, GLOBAL),
    "taylor_unstructured": Method(criteria.taylor, WEIGHT, GLOBAL),
    "fisher_unstructured": Method(criteria.fisher, WEIGHT, GLOBAL),
    "lamp_unstructured": Method(criteria.lamp, WEIGHT, GLOBAL),
    "wanda_unstructured": Method(criteria.wanda, WEIGHT, ROWWISE),
    "snip_unstructured": Method(criteria.snip, WEIGHT, GLOBAL),
    "grasp_unstructured": Method(criteria.grasp, WEIGHT, GLOBAL),
    "synflow_unstructured": Method(criteria.synflow, WEIGHT, GLOBAL, schedules.repeated),
    "random_unstructured_layerwise": Method(criteria.random, WEIGHT, LAYERWISE),
    "l1_unstructured_layerwise": Method(criteria.l1, WEIGHT, LAYERWISE),
    # single weights, selected at initialisation
    "random_at_init": Method(criteria.random, WEIGHT, GLOBAL, restart=Restart.INIT),
    "snip_at_init": Method(criteria.snip, WEIGHT, GLOBAL, restart=Restart.INIT),
    "grasp_at_init": Method(criteria.grasp, WEIGHT, GLOBAL, restart=Restart.INIT),
    "synflow_at_init": Method(criteria.synflow, WEIGHT, GLOBAL, schedules.repeated, Restart.INIT),
    # single weights, in several steps
    "random_unstructured_iterative": Method(criteria.random, WEIGHT, GLOBAL, schedules.iterative),
    "l1_unstructured_iterative": Method(criteria.l1, WEIGHT, GLOBAL, schedules.iterative),
    "l1_unstructured_gradual": Method(criteria.l1, WEIGHT, GLOBAL, schedules.gradual),
    "l1_unstructured_lottery": Method(
        criteria.l1, WEIGHT, GLOBAL, schedules.iterative, Restart.WEIGHTS
    ),
    "random_unstructured_lottery": Method(
        criteria.random, WEIGHT, GLOBAL, schedules.iterative, Restart.WEIGHTS
    ),
    "l1_unstructured_rate_rewinding": Method(criteria.l1, WEIGHT, GLOBAL, restart=Restart.RATE),
    "l1_unstructured_scratch": Method(criteria.l1, WEIGHT, GLOBAL, restart=Restart.SCRATCH),
    # small groups of weights
    "random_n_of_m": Method(criteria.random, N_OF_M, LAYERWISE),
    "l1_n_of_m": Method(criteria.l1, N_OF_M, LAYERWISE),
    "random_pattern": Method(criteria.random, PATTERN, LAYERWISE),
    "l1_pattern": Method(criteria.l1, PATTERN, LAYERWISE),
    "random_vector": Method(criteria.random, VECTOR, LAYERWISE),
    "l1_vector": Method(criteria.l1, VECTOR, LAYERWISE),
    "random_kernel": Method(criteria.random, KERNEL, LAYERWISE),
    "l1_kernel": Method(criteria.l1, KERNEL, LAYERWISE),
    "random_block": Method(criteria.random, BLOCK, LAYERWISE),
    "l1_block": Method(criteria.l1, BLOCK, LAYERWISE),
    "random_filter": Method(criteria.random, FILTER, LAYERWISE),
    "l1_filter": Method(criteria.l1, FILTER, LAYERWISE),
    "l2_filter": Method(criteria.l2, FILTER, LAYERWISE),
    # channels, removed from the network
    "random_channel": Method(criteria.random, "channel", UNIFORM),
    "l1_channel": Method(criteria.l1, "channel", UNIFORM),
    "l2_channel": Method(criteria.l2, "channel", UNIFORM),
    "bn_scale_channel": Method(criteria.bn_scale, "channel", UNIFORM),
    "taylor_channel": Method(criteria.taylor_filter, "channel", UNIFORM),
    "fisher_channel": Method(criteria.fisher, "channel", UNIFORM),
    "fpgm_channel": Method(criteria.fpgm, "channel", UNIFORM),
    "lamp_channel": Method(criteria.lamp, "channel", UNIFORM),
    "wanda_channel": Method(criteria.wanda, "channel", UNIFORM),
    "random_channel_global": Method(criteria.random, "channel", RELATIVE),
    "l1_channel_global": Method(criteria.l1, "channel", RELATIVE),
    "bn_scale_channel_global": Method(criteria.bn_scale, "channel", TOGETHER),
    "taylor_channel_global": Method(criteria.taylor_filter, "channel", TOGETHER),
    "fisher_channel_global": Method(criteria.fisher, "channel", TOGETHER),
    # channels, in several steps
    "random_channel_iterative": Method(criteria.random, "channel", UNIFORM, schedules.iterative),
    "l1_channel_iterative": Method(criteria.l1, "channel", UNIFORM, schedules.iterative),
    "l2_channel_iterative": Method(criteria.l2, "channel", UNIFORM, schedules.iterative),
    "l2_channel_soft": Method(criteria.l2, "channel", UNIFORM, schedules.soft),
    "bn_scale_channel_sparse": Method(
        criteria.bn_scale, "channel", TOGETHER, schedules.sparse(penalties.scales)
    ),
    "group_lasso_channel_sparse": Method(
        criteria.l2, "channel", RELATIVE, schedules.sparse(penalties.group_lasso)
    ),
    "growing_l2_channel_sparse": Method(
        criteria.l1, "channel", UNIFORM, schedules.sparse(penalties.growing_l2)
    ),
    "l1_channel_scratch": Method(criteria.l1, "channel", UNIFORM, restart=Restart.SCRATCH),
    # attention heads and feed-forward units of encoders, removed from the network
    "random_head": Method(criteria.random, "head", UNIFORM),
    "l1_head": Method(criteria.l1, "head", UNIFORM),
    "taylor_head": Method(criteria.taylor, "head", UNIFORM),
    "random_hidden": Method(criteria.random, "hidden", UNIFORM),
    "l1_hidden": Method(criteria.l1, "hidden", UNIFORM),
    "taylor_hidden": Method(criteria.taylor, "hidden", UNIFORM),
}
