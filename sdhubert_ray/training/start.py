"""What training starts from: the student with the weights of its upstream, its head, and its teacher."""

import torch

from sdhubert_ray.encoder.model import SDHuBERT, build_encoder
from sdhubert_ray.encoder.weights import Upstream
from sdhubert_ray.errors import UserError
from sdhubert_ray.training.distillation import (
    Distillation,
    DistillationOptions,
    Norms,
    SegmentDistillation,
    SegmentDistillationOptions,
)
from sdhubert_ray.training.objectives import SegmentsOptions
from sdhubert_ray.training.options import ModelOptions

_DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout")
_LIBRARY_PREFIXES = ("hubert.", "wav2vec2.")  # where the file holds a model with a task of its own
_CLS = "cls_token"
_UNUSED = ("masked_spec_embed",)
_TASKS = ("lm_head.", "projector.", "classifier.", "quantizer.", "project_q.", "project_hid.")


def build_distillation(upstream: Upstream, options: ModelOptions, seed: int) -> Distillation:
    """Build student and teacher; what is random comes from `seed` alone, and torch's generator stays as it is.

    Raises:
        UserError: the upstream is none for this model, its weights do not fit, or a layer to begin anew is missing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = _build_student(upstream, options.dropout)
        try:
            return Distillation(
                student,
                DistillationOptions(
                    reinit_layers=options.reinit_layers,
                    final_dim=options.final_dim,
                    ema_decay=options.ema_decay,
                    frozen_teacher=options.teacher == "frozen",
                    freeze_extractor=options.freeze_extractor,
                    freeze_pos_embedding=options.freeze_pos_embedding,
                    center_momentum=options.center_momentum,
                    student_temperature=options.student_temperature,
                    teacher_temperature=options.teacher_temperature,
                ),
            )
        except ValueError as error:
            raise UserError(f"model.{error} in speech_upstream {upstream.name}") from error


def build_segment_distillation(
    upstream: Upstream, options: ModelOptions, segments: SegmentsOptions, seed: int
) -> SegmentDistillation:
    """The same for the objective `segments`: the student ends with the layer that is trained.

    Raises:
        UserError: as `build_distillation`, or the upstream has no such layer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = _build_student(upstream, options.dropout)
        if segments.layer > student.num_layers:
            raise UserError(
                f"segments.layer is {segments.layer}, but speech_upstream {upstream.name} has {student.num_layers} "
                "layers; give one that it has"
            )
        student.keep_layers(segments.layer)
        try:
            distillation = SegmentDistillation(
                student,
                SegmentDistillationOptions(
                    given=segments.source is not None,
                    reinit_layers=options.reinit_layers,
                    ema_decay=options.ema_decay,
                    frozen_teacher=options.teacher == "frozen",
                    freeze_extractor=options.freeze_extractor,
                    freeze_pos_embedding=options.freeze_pos_embedding,
                    norm_decay=segments.norm_decay,
                    merge_threshold=segments.merge_threshold[0],
                ),
            )
        except ValueError as error:
            raise UserError(f"model.{error} in speech_upstream {upstream.name}") from error
    if segments.speech_norm is not None and segments.quiet_norm is not None and segments.source is None:
        distillation.norms.begin(Norms(segments.speech_norm, segments.quiet_norm))
    return distillation


def _build_student(upstream: Upstream, dropout: float | None) -> SDHuBERT:
    """The student; its CLS vector, where the upstream has none, begins with a standard deviation of 1 / sqrt(D)."""
    dropouts = {} if dropout is None else dict.fromkeys(_DROPOUTS, dropout)
    try:
        student = build_encoder({**upstream.config, **dropouts})
    except ValueError as error:
        raise UserError(f"speech_upstream {upstream.name}: no encoder of its config ({error})") from error
    torch.nn.init.normal_(student.cls_token, std=student.hidden_size**-0.5)
    if upstream.weights is not None:
        _fill(student, upstream)
    return student


def _fill(student: SDHuBERT, upstream: Upstream) -> None:
    weights = {_without_prefix(key): value for key, value in (upstream.weights or {}).items()}
    cls_token = weights.pop(_CLS, None)
    if cls_token is not None:
        with torch.no_grad():
            student.cls_token.copy_(cls_token)
    try:
        result = student.speech_model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        mismatch = str(error).split("\n\t")[-1].strip().rstrip(".")
        raise UserError(f"the weights of speech_upstream {upstream.name} do not fit its config: {mismatch}") from error
    missing = [key for key in result.missing_keys if key not in _UNUSED]
    extra = [key for key in result.unexpected_keys if not key.startswith(_TASKS) and key not in _UNUSED]
    for problem, keys in (("lacks", missing), ("has the unknown", extra)):
        if keys:
            raise UserError(
                f"speech_upstream {upstream.name} {problem} key {keys[0]!r}; it is no encoder of its config"
            )


def _without_prefix(key: str) -> str:
    for prefix in _LIBRARY_PREFIXES:
        key = key.removeprefix(prefix)
    return key
