"""Fusion: how the sequences of several modalities become one. Every level takes any number of modalities.

A new level is a file and a line here; one outside the repository is named by itself, `mylab.gate:DeepGate`.
"""

from __future__ import annotations

LEVELS: dict[str, str] = {
    "none": "mer.fusion.simple:NoFusion",
    "concat": "mer.fusion.simple:Concat",
    "gated": "mer.fusion.simple:Gated",
    "weighted": "mer.fusion.simple:Weighted",
    "cross_attention": "mer.fusion.cross_attention:CrossAttention",
    "xattn": "mer.fusion.mer_vn:Xattn",
    "bilstm_attn": "mer.fusion.mer_vn:BiLstmAttn",
    "cnn_bilstm_attn": "mer.fusion.mer_vn:CnnBiLstmAttn",
    "tacfn": "mer.fusion.tacfn:Tacfn",
    "cadgl": "mer.graph.fusion:CadglFusion",
}
