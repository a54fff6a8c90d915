"""Encoder, heads and sentinel, and the lane models that are refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from errata.editing.artifact import Artifact
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.retriever.encoder import Encoder
from errata.editing.retriever.heads import LaneModelShape, PromptMaker, Representation
from errata.editing.retriever.lane_model import LaneModel, knowledge
from errata.editing.retriever.start import place_behind_bos
from errata.editing.retriever.token_prompts import TokenPromptMaker
from errata.errors import (
    ArtifactCorruptError,
    BaseModelMismatchError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from tests.unit.editing.recipe_models import D_R, make_lane_model
from tests.unit.editing.tiny_models import make_model, make_tokenizer

TEXTS = ["Toyota makes", "The tower of Pisa is in Italy, as everybody knows", "Nokia"]


@torch.no_grad()
def test_pooling_is_pooler_mean_maximum_and_minimum_of_the_real_tokens(llama: CausalLM) -> None:
    encoder = make_lane_model(llama).encoder
    found = encoder(TEXTS)
    for text, row in zip(TEXTS, found, strict=True):
        output = encoder.model(torch.tensor([encoder.tokenizer.encode(text).ids]))
        hidden = output.last_hidden_state[0]
        expected = [output.pooler_output[0], hidden.mean(0), hidden.amax(0), hidden.amin(0)]
        torch.testing.assert_close(row, torch.cat(expected), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_free_vectors_enter_the_layers_without_positions_or_embedding_norm(llama: CausalLM) -> None:
    lane_model = make_lane_model(llama)
    encoder, vectors = lane_model.encoder, lane_model.sentinel
    hidden = vectors[None]
    for layer in encoder.model.encoder.layer:
        hidden = layer(hidden)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    mean = encoder.pool_vectors(vectors)[32:64]
    torch.testing.assert_close(mean, hidden[0].mean(0), atol=1e-5, rtol=1e-5)
    before = encoder(TEXTS)
    assert torch.equal(encoder(TEXTS), before), "the embeddings are restored"


def test_a_long_text_loses_its_beginning_and_is_marked(llama: CausalLM) -> None:
    encoder = make_lane_model(llama).encoder
    long = "Lyon " * 60 + "plays football"
    assert encoder.tokens([long, "Lyon plays football"]).cut == (True, False)
    kept = encoder.tokenizer.encode(long)
    assert len(kept.ids) == 32
    assert kept.ids[-3:] == encoder.tokenizer.encode("Lyon plays football").ids[-3:]
    assert kept.ids[0] == 0, "the prepended special token stays"


def test_the_heads_are_the_published_formulas() -> None:
    torch.manual_seed(0)
    head = Representation(5, 4)
    x = torch.randn(3, 5)
    h = x @ head.first.weight.T + head.first.bias
    out = h + (h @ head.second.weight.T + head.second.bias).clamp(min=0)
    torch.testing.assert_close(head(x), out)
    shape = LaneModelShape(
        d_r=4, num_prompt=3, deep=(2, 5), num_target=0, num_sentinel=1, after=0, d=6, max_tokens=8
    )
    maker, s = PromptMaker(shape), torch.tensor([0.5, 2.0, 3.0])[:, None, None]
    maker.scale.copy_(s)
    r = torch.randn(3, 4)

    def published(maker: PromptMaker, r: Tensor) -> Tensor:
        g = r + (r @ maker.first.weight.T + maker.first.bias).clamp(min=0)
        return (g @ maker.second.weight.T + maker.second.bias).reshape(3, 3, 3, 6)

    torch.testing.assert_close(maker(r, torch.zeros(3, 0, 6)), s * published(maker, r))
    seeing = PromptMaker(replace(shape, num_target=2))
    seeing.scale.copy_(s)
    nn.init.normal_(seeing.copy.weight)
    nn.init.constant_(seeing.gate, 0.3)
    t = torch.randn(3, 2, 6)
    moved = 0.3 * r + (t / 0.5).flatten(1) @ seeing.target.weight.T + seeing.target.bias
    p = published(seeing, moved)
    p[:, 0, :2] += (t / 0.5) @ seeing.copy.weight.T
    torch.testing.assert_close(seeing(r, t), s * p)


def test_target_embeddings_are_those_of_the_llm(llama: CausalLM) -> None:
    lane_model = make_lane_model(llama, num_target=3)
    facts = [("Toyota makes", "football in Zürich"), ("Nokia", "x")]
    found = lane_model.target_embeddings(llama, facts)
    for (prompt, target), row in zip(facts, found, strict=True):
        text = tokenise(llama, prompt, target)
        ids = text.ids[len(text.ids) - text.num_target :][:3]
        assert torch.equal(row[: len(ids)], llama.embeddings(torch.tensor(ids)))
        assert not row[len(ids) :].any()
    assert make_lane_model(llama, num_target=0).target_embeddings(llama, facts).shape == (2, 0, 32)


@pytest.mark.parametrize("by_token", [False, True])
def test_a_lane_model_says_how_its_prompts_are_made(llama: CausalLM, by_token: bool) -> None:
    made = make_lane_model(llama, by_token=by_token)
    artifact = made.to_artifact()
    read = LaneModel.from_artifact(artifact, llama)
    assert isinstance(read.prompt_mlp, TokenPromptMaker if by_token else PromptMaker)
    keys, targets = torch.randn(2, D_R), torch.randn(2, 2, llama.d)
    assert torch.equal(read.prompts(keys, targets), made.prompts(keys, targets))
    shape = json.loads(artifact.metadata["shape"])
    del shape["by_token"]  # as lane models before this choice
    earlier = Artifact(artifact.tensors, {**artifact.metadata, "shape": json.dumps(shape)})
    if by_token:
        with pytest.raises(ArtifactCorruptError):
            LaneModel.from_artifact(earlier, llama)
    else:
        assert not LaneModel.from_artifact(earlier, llama).shape.by_token


def test_saving_and_loading_keeps_every_bit(llama: CausalLM, tmp_path: Path) -> None:
    made = make_lane_model(llama)
    made.save(tmp_path / "lane")
    read = LaneModel.load(tmp_path / "lane", llama)
    texts = [knowledge(text, "Finnish") for text in TEXTS]
    with torch.no_grad():
        assert torch.equal(read.keys(texts), made.keys(texts))
        assert torch.equal(read.queries(texts), made.queries(texts))
        assert torch.equal(read.sentinel_key(), made.sentinel_key())
        targets = made.target_embeddings(llama, [(text, "Finnish") for text in TEXTS])
        keys = made.keys(texts)
        assert torch.equal(read.prompts(keys, targets), made.prompts(keys, targets))
    assert read.to_artifact().to_bytes() == made.to_artifact().to_bytes()
    assert not any(parameter.requires_grad for parameter in read.parameters())


def test_a_lane_model_of_another_llm_is_refused(llama: CausalLM) -> None:
    artifact = make_lane_model(llama).to_artifact()
    with pytest.raises(BaseModelMismatchError, match="train one"):
        LaneModel.from_artifact(artifact, make_model("llama", seed=1))
    lying = replace(artifact, metadata={**artifact.metadata})
    lying.metadata["shape"] = lying.metadata["shape"].replace('"d": 32', '"d": 16')
    with pytest.raises(BaseModelMismatchError, match="width 16"):
        LaneModel.from_artifact(lying, llama)


@pytest.mark.parametrize("damage", ["missing", "surplus", "shape", "kind", "encoder", "silent"])
def test_a_damaged_lane_model_is_refused(llama: CausalLM, damage: str) -> None:
    whole = make_lane_model(llama).to_artifact()
    tensors, facts = dict(whole.tensors), dict(whole.metadata)
    match damage:
        case "missing":
            del tensors["sentinel"]
        case "surplus":
            tensors["more"] = torch.zeros(1)
        case "shape":
            tensors["sentinel"] = torch.zeros(1, 32)
        case "kind":
            facts["kind"] = "something"
        case "encoder":
            facts["encoder"] = "{"
        case "silent":
            del facts["shape"]
    with pytest.raises(ArtifactCorruptError):
        LaneModel.from_artifact(Artifact(tensors, facts), llama)


def test_an_encoder_is_loaded_from_its_folder(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path / "bert")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=24, pad_token_id=0,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path / "bert")
    encoder = Encoder.load(tmp_path / "bert", 64).eval()
    assert encoder.max_tokens <= 24, "the model limits the positions"
    with torch.no_grad():
        assert encoder(TEXTS).shape == (3, 4 * 16)
        assert encoder(["Lyon " * 100]).isfinite().all()


def test_an_encoder_without_pooler_uses_its_first_token(llama: CausalLM, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=16, n_layers=1, n_heads=2, hidden_dim=32,
        max_position_embeddings=32, pad_token_id=0,
    )  # fmt: skip
    DistilBertModel(config).save_pretrained(tmp_path)
    encoder = Encoder.load(tmp_path, 32).eval()
    with torch.no_grad():
        hidden = encoder.model(torch.tensor([encoder.tokenizer.encode("Nokia").ids]))[0]
        torch.testing.assert_close(encoder(["Nokia"])[0, :16], hidden[0, 0])
        assert encoder.pool_vectors(torch.randn(4, 16)).shape == (64,)


def test_other_models_than_encoders_are_refused(tmp_path: Path, llama: CausalLM) -> None:
    with pytest.raises(ModelNotFoundError, match="encoder"):
        Encoder.load(tmp_path / "nothing", 32)
    with pytest.raises(UnsupportedModelError, match="embeddings"):
        Encoder(nn.Linear(2, 2), llama.tokenizer.backend_tokenizer, 32)
    with pytest.raises(ModelNotFoundError, match="errata train"):
        LaneModel.load(tmp_path, llama)


def test_prompts_follow_the_bos_token_if_there_is_one() -> None:
    assert place_behind_bos(make_model("llama")) == 1
    assert place_behind_bos(make_model("llama", bos=False)) == 0
