"""Networks that are not in MODELS, and data for them, as a script would have them."""

import torch
from torch import Tensor, nn

Batches = list[tuple[Tensor, Tensor]]


class ResidualNet(nn.Module):
    """Two convolutions that are added, a third one and a head, for images [B, 1, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.bn1(self.conv1(images)))
        features = torch.relu(features + self.bn2(self.conv2(features)))
        features = torch.relu(self.conv3(features)).mean((2, 3))
        return self.head(features)


class TokenNet(nn.Module):
    """Two layers over the mean of embedded tokens [B, L]; the second shares its weights twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.first = nn.Linear(12, 16)
        self.again = nn.Linear(16, 16)
        self.once_more = self.again
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        features = torch.relu(self.first(self.embedding(tokens).mean(1)))
        return self.head(torch.relu(self.once_more(torch.relu(self.again(features)))))


def residual_net(seed: int = 0) -> ResidualNet:
    """A network whose norms are not at their initial values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ResidualNet()
        for norm in (model.bn1, model.bn2):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
                tensor.copy_(torch.randn(tensor.shape))
            norm.running_var.copy_(torch.rand(16) + 0.5)
    return model.eval()


def perceptron(seed: int = 0) -> nn.Module:
    """Four numbers [B, 4] to two, by two hidden layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 2)]
        return nn.Sequential(*layers).eval()


def image_batches(count: int = 3, seed: int = 0) -> Batches:
    """Batches of 16 images [16, 1, 8, 8] and labels of ten classes."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        images = torch.randn(16, 1, 8, 8, generator=generator)
        batches.append((images, torch.randint(10, (16,), generator=generator)))
    return batches


IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
