"""A denoiser in float64 whose answers are written down, in torch and in numpy."""

import numpy as np
import torch

from dreamfusion_ngp.guidance.protocol import Predictions
from dreamfusion_ngp.guidance.schedule import Schedule, flow_abar

LENGTH = 1000
ABAR = np.cos(np.linspace(0.05, 0.97, LENGTH) * np.pi / 2) ** 2
PLACE = {"text": 0.9, "plain": 0.5, "empty": -0.3, "negative": -0.8, "flawed": 0.2}


def formula(z, t, text, module=np):
    """eps_hat of one view: a smooth function of z, t and the text, whatever the library."""
    return module.tanh(0.8 * z + PLACE[text] * (t / LENGTH - 0.2)) + 0.1 * PLACE[text]


class KnownDenoiser:
    """told: [texts, t] of every call. The predictions are epsilon, or the velocity of a flow."""

    scale, views_together, device = 7.5, False, torch.device("cpu")

    def __init__(self, flow=False, negative=False, shape=(2, 4, 4)):
        self.schedule = Schedule(flow_abar(LENGTH), "flow") if flow else Schedule(ABAR)
        self.flow, self.unconditional, self.shape, self.told = flow, "negative" if negative else "empty", shape, []

    def encode(self, image):
        return image.permute(0, 3, 1, 2)[:, : self.shape[0]]

    def answers(self, z, t, views, texts):
        self.told.append((tuple(texts), t.copy()))
        at = torch.tensor(t, dtype=torch.float64).reshape(-1, 1, 1, 1)
        return tuple(formula(z, at, text, torch) for text in texts)

    def predict(self, z, t, views):
        alpha, sigma = self.schedule.coefficients(t, z)
        said = self.answers(z, t, views, (self.unconditional, "text"))
        return Predictions(*(((alpha + sigma) * e - z) / alpha if self.flow else e for e in said))

    def level(self, t):
        """alpha and sigma as numbers."""
        return np.sqrt(self.schedule.abar[t]), np.sqrt(1 - self.schedule.abar[t])

    def guided(self, z, t, scale):
        """eps_hat of one view, in numpy."""
        without, with_text = formula(z, t, self.unconditional), formula(z, t, "text")
        return without + scale * (with_text - without)
