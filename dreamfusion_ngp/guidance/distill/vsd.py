"""Variational score distillation (Wang et al., "ProlificDreamer", NeurIPS 2023), equation 9: instead of the noise, the
prediction of a student trained on the renderings is subtracted,

    gradient on x = w(t) (eps_hat(z_t; y, t) - eps_student(z_t; y, camera, shading, t)),

with the guided prediction of the frozen UNet; the student (`guidance/student.py`) is that UNet with a LoRA of rank 4,
trained in every step to minimise |eps_student - eps|^2, in the UNet's own terms, at t ~ U(0, T), without a camera in a
tenth of the samples, by AdamW at `guidance.lr_lora`, which warms up over the first fiftieth of the run as in the paper.

Cost: 3 UNet evaluations, and one with its backward per training view: `guidance.slice` views a step, or all.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ...config.schema import GuidanceConfig
from ...scene.views import Views
from ..classifier_free import guided_noise
from ..moment import Moment
from ..protocol import Denoiser
from ..schedule import add_noise, weight
from ..student import WITHOUT_CAMERA, Student

WARM_UP = 0.02  # of the run


class Variational:
    """The rule as `protocol.Distill` has it, which learns."""

    views_together = True  # one training step a batch

    def __init__(self, student: Student):
        self.student, self.tensors = student, student.tensors

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        noise: Tensor,
        t: np.ndarray,
        views: Views,
        config: GuidanceConfig,
        moment: Moment,
    ) -> Tensor:
        alpha, sigma = denoiser.schedule.coefficients(t, x)
        z = add_noise(x, noise, alpha, sigma)
        noise_hat = guided_noise(denoiser.predict(z, t, views), z, alpha, sigma, denoiser.schedule, config)
        student_noise = self.student.noise(z, t, views)
        self.teach(x, views, config, moment)
        return weight(alpha, sigma, config.weighting) * (noise_hat - student_noise)

    def teach(self, x: Tensor, views: Views, config: GuidanceConfig, moment: Moment) -> None:
        """One training step of the student on some of the views."""
        order, when, camera = moment.uniform(3)
        some = np.sort(np.argsort(order)[: config.slice or len(x)])
        t = (when[some] * len(self.student.denoiser.schedule)).astype(np.int64)
        rate, noise = config.lr_lora * min(1.0, moment.progress / WARM_UP), moment.normal(0, x)[some]
        self.student.learn(x[some], noise, t, views[some], camera[some] >= WITHOUT_CAMERA, rate)
