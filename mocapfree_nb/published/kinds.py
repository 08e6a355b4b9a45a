"""The published models that are known here: how to tell them, what their arrays are called, how they were built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..files import UserError, printable
from ..models.latent import LatentDenoiser
from ..models.mdm import MDM, MDM_NAMES
from ..models.unet import MotionUNet
from .encoders import GUO_NAMES, TMR, TMR_NAMES, GuoEvaluator

def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered parts there are under a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def _configure_mdm(state: Mapping[str, Tensor], beside: Mapping) -> dict:
    width, num_features = state["frames_in.weight"].shape
    decoder = any(".multihead_attn." in name for name in state)
    text_width = state["text_in.weight"].shape[1]
    words = decoder and text_width == 768
    return {
        "num_features": num_features,
        "width": width,
        "layers": _layers(state, "blocks."),
        "feedforward": len(state["blocks.0.linear1.weight"]),
        "text_width": text_width,
        "arch": "decoder" if decoder else "encoder",
        "text": "tokens" if words else "pooled",
        "time_token": decoder and bool(beside.get("emb_trans_dec", False)),
        "mask_frames": bool(beside.get("mask_frames", words)),
        "num_timesteps": beside.get("diffusion_steps", 50 if words else 1000),
        "schedule": beside.get("noise_schedule", "cosine"),
    }


def _configure_tmr(state: Mapping[str, Tensor], beside: Mapping) -> dict:
    width, num_features = state["motion_encoder.project.weight"].shape
    return {
        "num_features": num_features,
        "width": width,
        "layers": _layers(state, "motion_encoder.blocks."),
        "feedforward": len(state["motion_encoder.blocks.0.linear1.weight"]),
        "text_width": state["text_encoder.project.weight"].shape[1],
    }


def _configure_guo(state: Mapping[str, Tensor], beside: Mapping) -> dict:
    word_width, tags = state["tag.weight"].shape
    return {
        "num_features": state["movement_encoder.first.weight"].shape[1] + 4,
        "movement_hidden": len(state["movement_encoder.first.weight"]),
        "movement": len(state["movement_encoder.second.weight"]),
        "motion_hidden": len(state["motion_encoder.input.weight"]),
        "text_hidden": len(state["text_encoder.input.weight"]),
        "embedding": len(state["motion_encoder.head.3.weight"]),
        "word_width": word_width,
        "tag_count": tags,
    }


def _configure_mld(state: Mapping[str, Tensor], beside: Mapping) -> dict:
    width, num_features = state["vae.skel_embedding.weight"].shape
    return {
        "num_features": num_features,
        "latent_tokens": len(state["vae.global_motion_token"]) // 2,
        "width": width,
        "layers": 2 * _layers(state, "denoiser.encoder.input_blocks.") + 1,
        "vae_layers": 2 * _layers(state, "vae.encoder.input_blocks.") + 1,
        "feedforward": len(state["vae.encoder.middle_block.linear1.weight"]),
        "text_width": state["denoiser.emb_proj.1.weight"].shape[1],
        "positions": len(state["denoiser.query_pos.pe"]),
        "words": False,
        "frames_per_token": 1,
        "prediction": "noise",
        "num_timesteps": 1000,
        "schedule": "scaled_linear",
    }


def _configure_stablemofusion(state: Mapping[str, Tensor], beside: Mapping) -> dict:
    text_latent, text_width = state["embed_text.weight"].shape
    levels = range(_layers(state, "unet.downs."))
    return {
        "num_features": len(state["unet.final_conv.weight"]),
        "channels": [len(state[f"unet.downs.{level}.0.conv1d.blocks.0.block.weight"]) for level in levels],
        "time_width": state["unet.time_mlp.0.weight"].shape[1],
        "text_latent": text_latent,
        "text_layers": _layers(state, "text_blocks."),
        "text_feedforward": len(state["text_blocks.0.linear1.weight"]),
        "full_attention": bool(beside.get("no_eff", False)),
        "text_width": text_width,
        "prediction": {"epsilon": "noise", "v_prediction": "v"}.get(beside.get("prediction_type"), "x0"),
        "num_timesteps": beside.get("diffusion_steps", 1000),
        "schedule": beside.get("beta_schedule", "linear"),
    }

STABLEMOFUSION_NAMES = {
    ".cross_attention.": ".",
    ".group_norm.": ".norm.",
    ".2.conv.": ".2.",
    ".0.conv.": ".0.",
    "textTransEncoder.layers.": "text_blocks.",
    "unet.time_mlp.1.": "unet.time_mlp.0.",
    "unet.time_mlp.3.": "unet.time_mlp.2.",
}


@dataclass(frozen=True)
class Kind:
    """A published model: how to know it, what its arrays are called here, and which of them are not needed."""

    name: str
    network: type[nn.Module]
    marks: tuple[str, ...]  # names that every checkpoint of this kind has
    names: Mapping[str, str]  # see `replace_names`
    configure: Callable[[Mapping[str, Tensor], Mapping], dict]  # renamed arrays, settings beside -> constructor arguments
    unneeded: tuple[str, ...] = ()  # beginnings of names: text encoders, tables that can be computed
    optional: tuple[str, ...] = ()  # buffers of ours that no published file has

_STATISTICS = ("feature_mean", "feature_std")
_CLIP = ("clip_model.", "bert_model.", "text_encoder.text_model.")
_MDM_UNNEEDED = (*_CLIP, "sequence_pos_encoder.pe", "embed_timestep.sequence_pos_encoder.pe", "rot2xyz.")
_MLD_UNNEEDED = ("text_encoder.", "t2m_", "metrics.", "losses.", "_losses.", "denoiser.mem_pos.")
_MLD_OPTIONAL = (*_STATISTICS, "latent_mean", "latent_std", "vae_signature", "denoiser.no_caption")
KINDS = (
    Kind(
        "MDM",
        MDM,
        ("input_process.poseEmbedding.weight", "output_process.poseFinal.weight", "embed_text.weight"),
        MDM_NAMES,
        _configure_mdm,
        _MDM_UNNEEDED,
        _STATISTICS,
    ),
    Kind(
        "TMR",
        TMR,
        ("motion_encoder.projection.weight", "text_encoder.projection.weight"),
        TMR_NAMES,
        _configure_tmr,
        (),
        _STATISTICS,
    ),
    Kind(
        "Guo evaluator",
        GuoEvaluator,
        ("movement_encoder.main.0.weight", "motion_encoder.gru.weight_ih_l0", "text_encoder.pos_emb.weight"),
        GUO_NAMES,
        _configure_guo,
        (),
        _STATISTICS,
    ),
    Kind(
        "MLD",
        LatentDenoiser,
        ("vae.skel_embedding.weight", "denoiser.time_embedding.linear_1.weight"),
        {},
        _configure_mld,
        _MLD_UNNEEDED,
        _MLD_OPTIONAL,
    ),
    Kind(
        "StableMoFusion",
        MotionUNet,
        ("embed_text.weight", "textTransEncoder.layers.0.linear1.weight", "unet.final_conv.weight"),
        STABLEMOFUSION_NAMES,
        _configure_stablemofusion,
        _CLIP,
        _STATISTICS,
    ),
)


def recognise(state: Mapping[str, Tensor]) -> Kind:
    """Which published model these arrays are, by their names. Raises `UserError` for none that is known."""
    for kind in KINDS:
        if all(mark in state for mark in kind.marks):
            return kind
    few = printable(", ".join(list(state)[:3]))
    known = ", ".join(kind.name for kind in KINDS)
    raise UserError(f"not a model that is known here ({known}): it holds {len(state)} arrays such as {few}")
