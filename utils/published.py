"""Our weights under the published names: the model in `transformers` is the reference."""

import torch

SCHEME_NAMES = {
    "space": "space_only",
    "joint": "joint_space_time",
    "divided": "divided_space_time",
}


def published_config(model):
    """The arguments of `transformers.TimesformerConfig` that describe the same network.

    ValueError for a model whose MLP is gated (the published one is plain, "gelu"), for a scheme that
    was never published, and for frames that are not square.
    """
    config = model.config
    if config["scheme"] not in SCHEME_NAMES:
        raise ValueError(f"no published model has the scheme {config['scheme']!r}; there are {', '.join(SCHEME_NAMES)}")  # fmt: skip
    if config["activation"] != "gelu":
        raise ValueError(f'the published MLP is activation="gelu", not {config["activation"]!r}')
    height, width = config["image_size"]
    if height != width:
        raise ValueError(f"the published model takes square frames, not {height} x {width}")
    return dict(
        image_size=height, patch_size=config["patch_size"], num_frames=config["num_frames"],
        hidden_size=config["dim"], num_hidden_layers=config["depth"], num_attention_heads=config["heads"],
        intermediate_size=config["dim"] * config["mult"], attention_type=SCHEME_NAMES[config["scheme"]],
        num_labels=config["num_classes"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


def published_state(model):
    """The model's weights as a state dict of `transformers.TimesformerForVideoClassification`.

    Theirs adds a position to the class token; ours has them in one vector, so theirs gets zero.
    """
    embedding, patch_size = model.embedding, model.config["patch_size"]
    dim = len(embedding.cls)
    kernel = embedding.patches.weight.view(dim, 3, patch_size, patch_size)
    places = torch.cat([embedding.cls[None], embedding.space.flatten(0, 1)])
    start = "timesformer.embeddings."
    state = {
        f"{start}cls_token": torch.zeros(1, 1, dim),
        f"{start}position_embeddings": places[None],
        f"{start}patch_embeddings.projection.weight": kernel,
        f"{start}patch_embeddings.projection.bias": embedding.patches.bias,
    }
    if embedding.time is not None:
        state[f"{start}time_embeddings"] = embedding.time[None]

    def put(name, layer):
        state[f"{name}.weight"], state[f"{name}.bias"] = layer.weight, layer.bias

    for index, block in enumerate(model.blocks):
        layer = f"timesformer.encoder.layer.{index}"
        names = [("attention", "layernorm_before")]
        if len(block.steps) == 2:
            names.insert(0, ("temporal_attention", "temporal_layernorm"))
            put(f"{layer}.temporal_dense", block.steps[0].project)
        for step, (attention, norm) in zip(block.steps, names):
            put(f"{layer}.{norm}", step.attention.norm)
            put(f"{layer}.{attention}.attention.qkv", step.attention.fn.qkv)
            put(f"{layer}.{attention}.output.dense", step.attention.fn.out)
        put(f"{layer}.layernorm_after", block.feed_forward.norm)
        put(f"{layer}.intermediate.dense", block.feed_forward.fn.net[0])
        put(f"{layer}.output.dense", block.feed_forward.fn.net[3])
    put("timesformer.layernorm", model.norm)
    put("classifier", model.head)
    return state
