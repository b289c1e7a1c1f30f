"""Knowledge distillation: a trained network as the teacher of another one."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunelab.runtime.device import Execution


@dataclass(frozen=True)
class Teacher:
    """A network whose softened outputs the student imitates (Hinton et al. 2015).

    `model` is in evaluation mode, on the student's device. `weight` is the share of the loss that
    the teacher makes up: 0 ignores the teacher, 1 ignores the labels.
    """

    model: nn.Module
    weight: float
    temperature: float

    def loss(
        self, logits: Tensor, inputs: Tensor, label_loss: Tensor, execution: Execution
    ) -> Tensor:
        """The weighted sum of `label_loss` and the divergence from the teacher; both are scalars.

        `logits` are the student's outputs, float32 [B, classes]. The divergence is multiplied by
        the temperature squared, so that the temperature does not change the size of its gradients.
        """
        with torch.no_grad(), execution.autocast():
            teacher_logits = self.model(inputs).float()

        divergence = F.kl_div(
            F.log_softmax(logits / self.temperature, 1),
            F.log_softmax(teacher_logits / self.temperature, 1),
            log_target=True,
            reduction="batchmean",
        )
        return (1 - self.weight) * label_loss + self.weight * self.temperature**2 * divergence
